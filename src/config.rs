//! Where the configuration comes from: the file, the environment, the command line. `common::config` makes sense of it.

use std::path::Path;

use common::config::{Config, ConfigError, Sources};

use crate::cli::Cli;

/// Reads all sources. Without a file, and with `--dev`, it is development mode.
pub fn load(cli: &Cli) -> Result<Config, ConfigError> {
    load_with(cli, seed()?)
}

/// [`load`] with these random bytes for the secrets that nobody configured.
pub fn load_with(cli: &Cli, seed: [u8; 32]) -> Result<Config, ConfigError> {
    let file = cli.config.as_deref().map(read).transpose()?;
    // A variable that is not Unicode cannot be one of ours: their values are text.
    let mut env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(Sources {
        file: file.as_ref().map(|(name, text)| (name.as_str(), text.as_str())),
        env: &mut env,
        set: &cli.set,
        dev: cli.dev || file.is_none(),
        seed,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        read_file: &|path| std::fs::read(path),
    })?;
    tracing_subscriber::EnvFilter::try_new(&config.log.level).map_err(|_| {
        ConfigError::new("log.level", "expected a level or a filter such as \"info,media=debug\"")
    })?;
    Ok(config)
}

/// The file's name, for messages, and its text.
fn read(path: &Path) -> Result<(String, String), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new("--config", format!("cannot read {}: {error}", path.display())))?;
    Ok((path.display().to_string(), text))
}

/// Fresh random bytes.
fn seed() -> Result<[u8; 32], ConfigError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| ConfigError::new("auth.secret", format!("no randomness: {error}")))?;
    Ok(seed)
}
