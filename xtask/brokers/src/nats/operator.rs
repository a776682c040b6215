//! An operator with one account, whose users come with a credentials file.

use std::time::{SystemTime, UNIX_EPOCH};

use nkeys::KeyPair;

use super::Access;
use crate::{Error, Result};

/// Signs accounts and users by JWT, as in a deployment that does not list its users on the server.
#[derive(Debug)]
pub struct Operator {
    account: KeyPair,
    access: String,
}

impl Operator {
    /// An operator and an account of its own, with JetStream and no limits.
    ///
    /// # Errors
    /// If the keys cannot sign.
    pub fn new() -> Result<Self> {
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let system = KeyPair::new_account();
        let claims = |what: &str| format!("{{\"type\":\"{what}\",\"version\":2}}");
        let itself = token(&operator, &operator, "operator", &claims("operator"), None)?;
        let limits = "{\"limits\":{\"subs\":-1,\"data\":-1,\"payload\":-1,\"imports\":-1,\
            \"exports\":-1,\"wildcards\":true,\"conn\":-1,\"leaf\":-1,\"mem_storage\":-1,\
            \"disk_storage\":-1,\"streams\":-1,\"consumer\":-1},\"type\":\"account\",\"version\":2}";
        let ours = token(&operator, &account, "account", limits, None)?;
        let theirs = token(&operator, &system, "system", &claims("account"), None)?;
        let (account_id, system_id) = (account.public_key(), system.public_key());
        let access = format!(
            "operator: {itself}\nsystem_account: {system_id}\nresolver: MEMORY\n\
             resolver_preload: {{\n  {account_id}: {ours}\n  {system_id}: {theirs}\n}}"
        );
        Ok(Self { account, access })
    }

    /// For [`Options::access`](super::Options::access).
    #[must_use]
    pub fn access(&self) -> Access {
        Access::Operator(self.access.clone())
    }

    /// The text of a credentials file for a new user, who may come for as long as `lifetime` says.
    ///
    /// # Errors
    /// If the keys cannot sign.
    pub fn credentials(&self, lifetime: Option<std::time::Duration>) -> Result<String> {
        let user = KeyPair::new_user();
        let claims = "{\"pub\":{},\"sub\":{},\"subs\":-1,\"data\":-1,\"payload\":-1,\
            \"type\":\"user\",\"version\":2}";
        let expires = lifetime.map(|lifetime| now() + lifetime.as_secs());
        let token = token(&self.account, &user, "user", claims, expires)?;
        let seed = user.seed().map_err(|error| Error::new(format!("no seed: {error}")))?;
        Ok(format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ))
    }
}

/// What `issuer` says of `subject`.
fn token(
    issuer: &KeyPair,
    subject: &KeyPair,
    name: &str,
    claims: &str,
    expires: Option<u64>,
) -> Result<String> {
    let header = base64("{\"typ\":\"JWT\",\"alg\":\"ed25519-nkey\"}".as_bytes());
    let (by, of, now) = (issuer.public_key(), subject.public_key(), now());
    let expires = expires.map_or_else(String::new, |at| format!("\"exp\":{at},"));
    let body = format!(
        "{{\"jti\":\"{of}\",\"iat\":{now},{expires}\"iss\":\"{by}\",\"name\":\"{name}\",\
         \"sub\":\"{of}\",\"nats\":{claims}}}"
    );
    let signed = format!("{header}.{}", base64(body.as_bytes()));
    let signature = issuer.sign(signed.as_bytes());
    let signature = signature.map_err(|error| Error::new(format!("cannot sign: {error}")))?;
    Ok(format!("{signed}.{}", base64(&signature)))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Base64 for URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let all = chunk.iter().fold(0_u32, |all, byte| (all << 8) | u32::from(*byte));
        let all = all << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(LETTERS[(all >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc_without_padding() {
        let known = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in known {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "-__-");
    }
}
