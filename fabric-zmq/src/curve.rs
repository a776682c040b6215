//! CURVE: keys for encryption and for telling who may connect.

use std::fmt;

use fabric_core::{Error, ErrorKind, Result, Secret};

use crate::error::{config as refuse, from_zmq};

/// A public key: 32 bytes, written as 40 characters of Z85 or as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Reads a key in either form.
    ///
    /// # Errors
    /// `Config` where it is neither; the text is not repeated.
    pub fn parse(text: &str) -> Result<Self> {
        read(text).map(Self)
    }

    /// A key from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What tells keys apart in logs: the first eight bytes, as hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.0[..8])
    }
}

impl fmt::Display for Key {
    /// As hexadecimal digits, which need no escape in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.fingerprint())
    }
}

/// A key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    public: Key,
    secret: Secret,
}

impl KeyPair {
    /// Makes a new pair.
    ///
    /// # Errors
    /// `Unsupported` where this libzmq was built without CURVE.
    pub fn generate() -> Result<Self> {
        check_support()?;
        let pair = zmq::CurveKeyPair::new().map_err(|error| from_zmq(error, "making keys"))?;
        Ok(Self { public: Key(pair.public_key), secret: Secret::new(hex(&pair.secret_key)) })
    }

    /// A pair from its halves.
    ///
    /// # Errors
    /// `Config` where the secret is no key.
    pub fn new(public: Key, secret: Secret) -> Result<Self> {
        read(secret.reveal())?;
        Ok(Self { public, secret })
    }

    /// The half that others may know.
    #[must_use]
    pub const fn public(&self) -> Key {
        self.public
    }

    /// The half that nobody else may know.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    fn secret_bytes(&self) -> Result<[u8; 32]> {
        read(self.secret.reveal())
    }

    /// Makes a socket that listens ask for keys.
    pub(crate) fn serve(&self, socket: &zmq::Socket) -> Result<()> {
        let wrap = |error| from_zmq(error, "setting the keys");
        socket.set_curve_server(true).map_err(wrap)?;
        socket.set_curve_secretkey(&self.secret_bytes()?).map_err(wrap)
    }
}

/// What a client needs: the broker's public key, and a pair of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKeys {
    server: Key,
    own: KeyPair,
}

impl ClientKeys {
    /// The broker's key and the client's own.
    ///
    /// # Errors
    /// `Config` where the secret is no key.
    pub fn new(server: Key, public: Key, secret: Secret) -> Result<Self> {
        Ok(Self { server, own: KeyPair::new(public, secret)? })
    }

    /// Makes a socket that connects prove itself.
    pub(crate) fn prove(&self, socket: &zmq::Socket) -> Result<()> {
        let wrap = |error| from_zmq(error, "setting the keys");
        socket.set_curve_serverkey(&self.server.0).map_err(wrap)?;
        socket.set_curve_publickey(&self.own.public.0).map_err(wrap)?;
        socket.set_curve_secretkey(&self.own.secret_bytes()?).map_err(wrap)
    }

    /// Without a broker every client also listens, with its own pair.
    pub(crate) const fn own(&self) -> &KeyPair {
        &self.own
    }
}

/// Whether the libzmq that this program is linked with can do CURVE.
#[must_use]
pub fn is_supported() -> bool {
    zmq::has("curve") == Some(true)
}

pub(crate) fn check_support() -> Result<()> {
    if is_supported() {
        return Ok(());
    }
    let text = "the libzmq of this program was built without CURVE; link the system's, as the page \
                on ZeroMQ says under `Security`";
    Err(Error::new(ErrorKind::Unsupported, text).with_backend("zmq").with("option", "CURVE"))
}

/// The characters of Z85; libzmq takes any others for zeros.
const Z85: &[u8] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// Either form of 32 bytes.
fn read(text: &str) -> Result<[u8; 32]> {
    let bytes = match text.len() {
        40 if text.bytes().all(|byte| Z85.contains(&byte)) => zmq::z85_decode(text).ok(),
        64 => unhex(text),
        _ => None,
    };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        refuse("a key is 40 characters of Z85 or 64 hexadecimal digits (in a URL, the latter)")
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_key_are_read() {
        let bytes: [u8; 32] = std::array::from_fn(|n| n as u8 * 7);
        let key = Key::from_bytes(bytes);
        assert_eq!(Key::parse(&key.to_string()).unwrap(), key);
        assert_eq!(Key::parse(&zmq::z85_encode(&bytes).unwrap()).unwrap(), key);
        for bad in ["", "abc", &"z".repeat(64), &"\"".repeat(40), &"\u{e9}".repeat(20)] {
            assert_eq!(Key::parse(bad).unwrap_err().kind(), ErrorKind::Config);
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = "5".repeat(64);
        let pair = KeyPair::new(Key::from_bytes([1; 32]), Secret::new(&*secret)).unwrap();
        assert!(!format!("{pair:?}").contains(&secret));
    }
}
