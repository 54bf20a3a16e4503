//! How connections to Redis are encrypted: the files of the settings, read once.

use std::{path::Path, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::RedisTls;

/// Why the certificates of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisTlsError {
    /// A file cannot be read, or holds something else.
    #[error("{key} {path}: {message}")]
    File {
        /// Which setting.
        key: &'static str,
        /// Which file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Key and certificate do not belong together, or cannot be used.
    #[error("redis.tls: {0}")]
    Tls(#[from] rustls::Error),
    /// There is nothing to check the server's certificate against.
    #[error("no root certificates were found on this machine: name a file in redis.tls.ca")]
    NoRoots,
}

/// What a connection is made with.
pub(super) fn client_config(tls: &RedisTls) -> Result<ClientConfig, RedisTlsError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            for certificate in certificates("redis.tls.ca", path)? {
                roots.add(certificate)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(RedisTlsError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("redis.tls.certificate", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| wrong("redis.tls.key", key, &error))?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, RedisTlsError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(key, path, &error))?;
    let certificates: Result<Vec<_>, _> = read.collect();
    let certificates = certificates.map_err(|error| wrong(key, path, &error))?;
    if certificates.is_empty() {
        return Err(wrong(key, path, &"it holds no certificate in PEM form"));
    }
    Ok(certificates)
}

fn wrong(key: &'static str, path: &Path, message: &dyn std::fmt::Display) -> RedisTlsError {
    RedisTlsError::File {
        key,
        path: path.display().to_string(),
        message: message.to_string(),
    }
}
