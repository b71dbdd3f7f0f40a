//! The command line, and the commands that serve nobody: `check-config` and `token`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use common::config::{Auth, AuthKey, ConfigError, Secret, parse_duration};
use common::ids::{RoomId, UserId};
use common::token::{self, Claims};

use crate::load::LoadArgs;
use crate::{config, relay_server};

/// A WebRTC media plane in one binary: signaling, SFU and TURN.
///
/// Without a configuration it runs in development mode on localhost.
#[derive(Debug, Parser)]
#[command(name = "causeway", version)]
pub struct Cli {
    /// The configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, over the file and the environment; may be repeated.
    #[arg(long, global = true, value_name = "section.key=value")]
    pub set: Vec<String>,
    /// Development mode: loopback only, and tokens for any name.
    #[arg(long, global = true)]
    pub dev: bool,
    /// What to do; to serve, when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the servers.
    Serve,
    /// Prints what every setting became, and refuses what `serve` would refuse.
    CheckConfig {
        /// coturn's configuration file, instead of Causeway's.
        #[arg(short = 'c', value_name = "turnserver.conf", conflicts_with = "config")]
        turnserver_conf: Option<PathBuf>,
    },
    /// Runs STUN and TURN alone, in coturn's place: `causeway turn -c /etc/turnserver.conf`.
    #[command(disable_help_flag = true)]
    Turn {
        /// coturn's own options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "coturn's options")]
        options: Vec<String>,
    },
    /// Prints an access token.
    Token(TokenArgs),
    /// Joins a running server as many people, and reports what became of their packets.
    Load(LoadArgs),
}

/// Whom a token is for, and what it allows.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The user id.
    #[arg(long, value_name = "U", value_parser = user)]
    user: UserId,
    /// The only room that may be joined.
    #[arg(long, value_name = "R", value_parser = RoomId::new)]
    room: Option<RoomId>,
    /// The display name.
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// May mute, remove and close, and read everybody's call log.
    #[arg(long)]
    admin: bool,
    /// For how long it is good.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// The secret to sign with, instead of the configuration's.
    #[arg(long, value_name = "S")]
    secret: Option<String>,
}

/// `#` sets sessions of one user apart, so it is no part of a user's name.
fn user(text: &str) -> Result<UserId, String> {
    UserId::new(text)
        .ok()
        .filter(|user| !user.as_str().contains('#'))
        .ok_or_else(|| "expected 1 to 128 characters of [A-Za-z0-9._@:-]".into())
}

fn ttl(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|ttl| ttl.as_secs() > 0)
        .ok_or_else(|| "expected a duration such as 1h or 30m".into())
}

/// What a command that serves nobody prints; `None` when there is something to serve.
pub fn answer(cli: &Cli) -> Option<anyhow::Result<String>> {
    match &cli.command {
        None | Some(Command::Serve | Command::Turn { .. } | Command::Load(_)) => None,
        Some(Command::CheckConfig { turnserver_conf: Some(path) }) => Some(relay_server::check(path)),
        Some(Command::CheckConfig { turnserver_conf: None }) => Some(check_config(cli)),
        Some(Command::Token(args)) => Some(token(cli, args).map_err(Into::into)),
    }
}

fn check_config(cli: &Cli) -> anyhow::Result<String> {
    let config = config::load(cli)?;
    let mode = if config.dev { "# development mode\n" } else { "" };
    let rows = config.describe().into_iter().map(|(key, value)| format!("{key} = {value}\n"));
    let mut text: String = std::iter::once(mode.to_owned()).chain(rows).collect();
    if let Some(path) = &config.turn.turnserver_conf {
        text.push_str(&format!("\n# {}\n{}", path.display(), relay_server::check(path)?));
    }
    Ok(text)
}

fn token(cli: &Cli, args: &TokenArgs) -> Result<String, ConfigError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let claims = Claims {
        sub: args.user.clone(),
        exp: now + args.ttl.as_secs(),
        nbf: None,
        name: args.name.clone(),
        call: true,
        room: args.room.as_ref().map_or("*", RoomId::as_str).to_owned(),
        publish: true,
        subscribe: true,
        admin: args.admin,
    };
    let minted = match &args.secret {
        Some(secret) => token::mint(&Secret(secret.as_bytes().to_vec()), &claims),
        None => token::mint_for(&configured_auth(cli)?, &claims),
    };
    minted.map(|token| token + "\n").map_err(|error| ConfigError::new("auth", error))
}

/// The configured key: a token that is signed with a random one would fit no server.
fn configured_auth(cli: &Cli) -> Result<Auth, ConfigError> {
    const NOT_CONFIGURED: [u8; 32] = [0; 32];
    let auth = config::load_with(cli, NOT_CONFIGURED)?.auth;
    match &auth.key {
        AuthKey::Secret(Secret(bytes)) if *bytes == NOT_CONFIGURED => {
            Err(ConfigError::new("auth.secret", "required: give --config FILE or --secret S"))
        }
        _ => Ok(auth),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn run(arguments: &[&str]) -> Result<String, String> {
        let cli = Cli::try_parse_from(std::iter::once(&"causeway").chain(arguments))
            .map_err(|error| error.to_string())?;
        answer(&cli).expect("a command that answers").map_err(|error| error.to_string())
    }

    /// The claims inside a token, which is checked with `secret` first.
    fn claims(token: &str, secret: &str) -> Claims {
        let key = AuthKey::Secret(Secret(secret.as_bytes().to_vec()));
        let verifier = token::TokenVerifier::new(&Auth { key, issuer: None, audience: None }).expect("a key");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        verifier.verify(token.trim_end(), now).expect("a good token")
    }

    #[test]
    fn to_serve_is_the_default() {
        for arguments in
            [&["causeway"][..], &["causeway", "serve", "--dev"], &["causeway", "--set", "media.port=1"]]
        {
            assert!(answer(&Cli::try_parse_from(arguments).expect("parsed")).is_none());
        }
    }

    #[test]
    fn a_token_says_what_was_asked_for() {
        let token =
            run(&["token", "--user", "alice", "--room", "r", "--name", "Alice", "--admin", "--secret", "s"]);
        let claims = claims(&token.expect("minted"), "s");
        assert_eq!((claims.sub.as_str(), claims.room.as_str(), claims.admin), ("alice", "r", true));
        assert_eq!(claims.name.as_deref(), Some("Alice"));
    }

    #[test]
    fn a_token_is_signed_with_the_configured_secret() {
        let setting = format!("auth.secret={KEY}");
        let token = run(&["token", "--user", "bob", "--ttl", "5m", "--set", &setting]).expect("minted");
        assert_eq!(claims(&token, KEY).room, "*");
        let error = run(&["token", "--user", "bob"]).expect_err("no secret");
        assert!(error.starts_with("auth.secret: required"), "{error}");
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused() {
        for arguments in [
            &["token"][..],
            &["token", "--user", "a b", "--secret", "s"],
            &["token", "--user", "alice#2", "--secret", "s"],
            &["token", "--user", "a", "--secret", "s", "--ttl", "0s"],
            &["token", "--user", "a", "--secret", "s", "--ttl", "soon"],
            &["token", "--user", "a", "--secret", "s", "--room", "no room"],
            &["check-config", "--set", "media.port=x"],
            &["check-config", "--set", "log.level=,=,"],
            &["check-config", "--set", "http.listen=0.0.0.0:80", "--dev"],
            &["check-config", "--config", "/nowhere.toml"],
            &["check-config", "--frobnicate"],
            &["dance"],
        ] {
            assert!(run(arguments).is_err(), "{arguments:?}");
        }
        let error = run(&["check-config", "--config", "/nowhere.toml"]).expect_err("no file");
        assert!(error.starts_with("--config: cannot read /nowhere.toml") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_file_is_checked_and_its_secrets_are_not_shown() {
        let file = std::env::temp_dir().join(format!("causeway-cli-{}.toml", std::process::id()));
        let text =
            format!("http.tls = \"off\"\nauth.secret = \"{KEY}\"\nmedia.announced_ip = \"203.0.113.7\"\n");
        std::fs::write(&file, text).expect("a writable directory");
        let name = file.to_str().expect("a path in Unicode");
        let shown = run(&["check-config", "--config", name, "--set", "media.port=5000"]).expect("valid");
        assert!(shown.contains("media.port = 5000\n") && !shown.contains(KEY), "{shown}");
        let error =
            run(&["check-config", "--config", name, "--set", "media.prot=5000"]).expect_err("misspelt");
        assert_eq!(error, "media.prot: unknown key");
        std::fs::remove_file(&file).expect("it was just written");
    }

    proptest! {
        #[test]
        fn no_command_line_breaks_the_parser(arguments in prop::collection::vec(
            "serve|check-config|token|--dev|--set|--config|--user|--ttl|media.port=[0-9]{0,6}|\\PC{0,12}", 0..6,
        )) {
            let _ = Cli::try_parse_from(std::iter::once("causeway".to_owned()).chain(arguments)).map(|cli| answer(&cli));
        }
    }
}
