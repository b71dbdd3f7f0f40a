//! The web app: what `client/dist` held when the binary was built (debug builds read the folder itself).

use rust_embed::{EmbeddedFile, RustEmbed};
use signaling::net::Asset;

#[derive(RustEmbed)]
#[folder = "client/dist"]
struct Dist;

/// Vite puts files whose names carry a hash of their content here.
const HASHED: &str = "assets/";

/// How much of the SHA-256 names a version: 64 bits.
const VERSION_BYTES: usize = 8;

/// The file at this path of the web app.
pub fn find(path: &str) -> Option<Asset> {
    let EmbeddedFile { data, metadata } = Dist::get(path)?;
    let version = metadata.sha256_hash()[..VERSION_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Asset {
        body: data,
        content_type: metadata.mimetype().to_owned(),
        version,
        immutable: path.starts_with(HASHED),
    })
}
