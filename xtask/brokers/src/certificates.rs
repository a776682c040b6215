//! Certificates: an authority, and what it signs for a server and for a client.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{Error, Folder, Result};

/// Files of certificates for 127.0.0.1 and `localhost`, in a folder of their own.
#[derive(Debug)]
pub struct Certificates {
    folder: Folder,
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    /// A new authority, and a certificate of it for a server and for a client.
    ///
    /// # Errors
    /// If they cannot be made or written.
    pub fn new() -> Result<Self> {
        let folder = Folder::new("certificates")?;
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut params = CertificateParams::new(Vec::new()).map_err(|error| failed(&error))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Fabric's authority for tests");
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
        folder.write("authority.pem", certificate.pem())?;
        let certificates = Self { folder, authority: Issuer::new(params, key) };
        certificates.renew()?;
        Ok(certificates)
    }

    /// Replaces the certificates of server and client by new ones, in the same files.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn renew(&self) -> Result<()> {
        self.sign("server", ExtendedKeyUsagePurpose::ServerAuth)?;
        self.sign("client", ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The authority's certificate, which clients trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// The server's certificate.
    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// Its key.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.file("server.key")
    }

    /// The client's certificate.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.file("client.pem")
    }

    /// Its key.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.file("client.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<()> {
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let mut params = CertificateParams::new(names).map_err(|error| failed(&error))?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let certificate =
            params.signed_by(&key, &self.authority).map_err(|error| failed(&error))?;
        self.folder.write(&format!("{name}.pem"), certificate.pem())?;
        self.folder.write(&format!("{name}.key"), key.serialize_pem())?;
        // Some servers want one file with both.
        let both = format!("{}{}", key.serialize_pem(), certificate.pem());
        self.folder.write(&format!("{name}.both.pem"), both).map(drop)
    }

    /// The server's key and certificate in one file.
    #[must_use]
    pub fn server_with_key(&self) -> PathBuf {
        self.file("server.both.pem")
    }
}

fn failed(error: &rcgen::Error) -> Error {
    Error::new(format!("cannot make certificates: {error}"))
}
