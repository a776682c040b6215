//! Who the client is: read anew at each connection, so that what was renewed holds.

use std::path::Path;

use async_nats::Auth;
use fabric_core::{Error, ErrorKind, Result};
use nkeys::KeyPair;

use crate::config::NatsConfig;

/// Answers the server's `nonce` with what the configuration holds.
///
/// # Errors
/// `Config`, naming the file that cannot be read.
pub(crate) async fn answer(config: &NatsConfig, nonce: &[u8]) -> Result<Auth> {
    let mut auth = Auth::new();
    auth.username.clone_from(&config.user);
    auth.password = config.password.as_ref().map(|secret| secret.reveal().to_owned());
    auth.token = config.token.as_ref().map(|secret| secret.reveal().to_owned());
    if let Some(seed) = &config.nkey {
        sign(&mut auth, seed.reveal(), nonce)?;
    }
    if let Some(path) = &config.nkey_file {
        sign(&mut auth, &read(path).await?, nonce)?;
    }
    if let Some(path) = &config.credentials {
        let text = read(path).await?;
        let (jwt, seed) = parts(&text).ok_or_else(|| {
            bad(format!("`{}` is no credentials file: it has no JWT and seed", path.display()))
        })?;
        sign(&mut auth, seed, nonce)?;
        auth.nkey = None;
        auth.jwt = Some(jwt.to_owned());
    }
    Ok(auth)
}

fn sign(auth: &mut Auth, seed: &str, nonce: &[u8]) -> Result<()> {
    let pair = KeyPair::from_seed(seed.trim()).map_err(|_| bad("an NKey's seed cannot be read"))?;
    let signature = pair.sign(nonce).map_err(|_| bad("an NKey's seed does not sign"))?;
    auth.nkey = Some(pair.public_key());
    auth.signature = Some(signature);
    Ok(())
}

async fn read(path: &Path) -> Result<String> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(owned)).await;
    match read {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => {
            Err(bad(format!("`{}` cannot be read", path.display())).with_source(error))
        }
        Err(error) => Err(bad(format!("`{}` cannot be read", path.display())).with_source(error)),
    }
}

/// The JWT and the seed of a credentials file: what stands between its lines of dashes.
fn parts(text: &str) -> Option<(&str, &str)> {
    let mut blocks = text.split("-----BEGIN ").skip(1).filter_map(|block| {
        let (_, rest) = block.split_once('\n')?;
        Some(rest.split("---").next()?.trim())
    });
    let (jwt, seed) = (blocks.next()?, blocks.next()?);
    (!jwt.is_empty() && !seed.is_empty()).then_some((jwt, seed))
}

fn bad(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text).with_backend("nats")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_has_two_parts() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0.abc\n------END NATS USER JWT------\n\n\
                    ************************* IMPORTANT *************************\n\
                    NKEY Seed printed below can be used to sign and prove identity.\n\n\
                    -----BEGIN USER NKEY SEED-----\nSUABC\n------END USER NKEY SEED------\n";
        assert_eq!(parts(text), Some(("eyJ0.abc", "SUABC")));
        assert_eq!(parts("-----BEGIN NATS USER JWT-----\neyJ0\n"), None);
        assert_eq!(parts(""), None);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let config = NatsConfig::new(["a:1"]).with_credentials("/nowhere/user.creds");
        let error = answer(&config, b"n").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("/nowhere/user.creds"), "{error}");
    }
}
