//! TLS of the public listener: certificate and key, and how they are exchanged while connections go on.
//!
//! What is used is read at each accept, so a new certificate is that of the next connection, and open streams keep theirs.
//! Files are looked at every two seconds: watching for changes misses how cert-manager and `ConfigMap` volumes swap links. A renewal
//! may write the key and the certificate one after the other; a pair that does not fit yet is tried again, and the old one
//! stays until then.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time,
};
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{app::App, certificate::not_after, handshake::ALPN_H2};
use crate::{
    config::{Config, Look, ServerTls},
    telemetry::TlsMetrics,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long before its end a certificate is worth a warning.
const SOON: Duration = Duration::from_hours(3 * 24);

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key} {path}: {source}")]
    Read {
        /// Which setting.
        key: &'static str,
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{key} {path}: {message}")]
    File {
        /// Which setting.
        key: &'static str,
        /// Which file.
        path: String,
        /// What was found, and what is expected.
        message: String,
    },
    /// Key and certificate do not belong together.
    #[error(
        "server.tls: the key in {key} is not that of the first certificate in {certificate}: the certificate of this server comes first, then those of its issuers"
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: String,
        /// The file of the key.
        key: String,
    },
    /// The library refuses them.
    #[error("server.tls: {0}")]
    Tls(#[from] rustls::Error),
}

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(settings: &ServerTls) -> Option<Self> {
        Some(Self {
            certificate: settings.certificate.clone()?,
            key: settings.key.clone()?,
        })
    }

    /// What changes when one of them does.
    fn stamp(&self) -> [Option<Look>; 2] {
        [&self.certificate, &self.key].map(|path| Look::at(path))
    }

    fn load(&self) -> Result<Loaded, TlsError> {
        let wrong = |key, path: &Path, message: &str| TlsError::File {
            key,
            path: path.display().to_string(),
            message: message.to_owned(),
        };
        let text = read("server.tls.certificate", &self.certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| {
            let message = format!("it is not valid PEM: {error}");
            wrong("server.tls.certificate", &self.certificate, &message)
        })?;
        let Some(first) = chain.first() else {
            let message = "it holds no certificate; expected PEM, that is text with -----BEGIN CERTIFICATE-----";
            return Err(wrong("server.tls.certificate", &self.certificate, message));
        };
        let expires = not_after(first);
        let key = PrivateKeyDer::from_pem_slice(&read("server.tls.key", &self.key)?).map_err(|_| {
            let message = "it holds no private key that can be read; expected PEM without a passphrase, that is text with -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY)";
            wrong("server.tls.key", &self.key, message)
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| {
                let message = format!("{error}; expected an RSA, ECDSA or Ed25519 key");
                wrong("server.tls.key", &self.key, &message)
            })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(TlsError::Mismatch {
                    certificate: self.certificate.display().to_string(),
                    key: self.key.display().to_string(),
                });
            }
            Err(error) => {
                let message = format!("{error}; expected an X.509 certificate");
                return Err(wrong("server.tls.certificate", &self.certificate, &message));
            }
        }
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
        // Who comes back within hours saves the signature. Nothing is kept for it, and a new certificate ends it.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Loaded {
            config: Arc::new(config),
            expires,
        })
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        key,
        path: path.display().to_string(),
        source,
    })
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// Seconds since 1970.
    expires: Option<i64>,
}

/// What is known of the files.
struct Known {
    files: Files,
    /// As they were when they were read with success.
    stamp: [Option<Look>; 2],
    /// What was said of them last, so that it is said once.
    complaint: Option<String>,
    /// Handshakes at the same time.
    places: usize,
}

fn places(config: &Config) -> usize {
    config.limits.handshakes.get().min(Semaphore::MAX_PERMITS)
}

/// TLS of a listener.
pub struct Tls {
    current: ArcSwap<ServerConfig>,
    known: Mutex<Known>,
    places: Semaphore,
    metrics: TlsMetrics,
}

impl Tls {
    /// Reads certificate and key; nothing where the settings name none.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(config: &Config, metrics: TlsMetrics) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(files) = Files::of(&config.server.tls) else {
            return Ok(None);
        };
        let stamp = files.stamp();
        let loaded = files.load()?;
        let tls = Self {
            current: ArcSwap::new(loaded.config),
            known: Mutex::new(Known {
                files,
                stamp,
                complaint: None,
                places: places(config),
            }),
            places: Semaphore::new(places(config)),
            metrics,
        };
        tls.metrics.may_shake(&super::handshake::OUTCOMES);
        tls.expires(loaded.expires);
        Ok(Some(Arc::new(tls)))
    }

    /// Whether certificate and key can be used, where the settings name them.
    ///
    /// # Errors
    /// When they cannot.
    pub fn check(settings: &ServerTls) -> Result<(), TlsError> {
        Files::of(settings).map_or(Ok(()), |files| files.load().map(drop))
    }

    /// What the next connection will use.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> &TlsMetrics {
        &self.metrics
    }

    /// A place among the handshakes that are made at the same time.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// Reads certificate and key again if they are others, or elsewhere, than those in use. What cannot be used changes
    /// nothing.
    ///
    /// # Errors
    /// When they cannot be used; that is logged.
    pub fn reload(&self, settings: &ServerTls) -> Result<(), TlsError> {
        let mut known = self.known.lock();
        let files = Files::of(settings).unwrap_or_else(|| known.files.clone());
        if files == known.files && files.stamp() == known.stamp {
            return Ok(());
        }
        let before = std::mem::replace(&mut known.files, files);
        let read = self.read_again(&mut known);
        if read.is_err() {
            known.files = before;
        }
        read
    }

    fn read_again(&self, known: &mut Known) -> Result<(), TlsError> {
        // Before they are read: what changes meanwhile is then seen at the next look.
        let stamp = known.files.stamp();
        match known.files.load() {
            Ok(loaded) => {
                known.stamp = stamp;
                known.complaint = None;
                self.current.store(loaded.config);
                self.metrics.reloaded(true);
                tracing::info!(target: "audit", event = "tls_reloaded", outcome = "OK", "certificate and key were exchanged");
                self.expires(loaded.expires);
                Ok(())
            }
            Err(error) => {
                let complaint = error.to_string();
                if known.complaint.as_ref() != Some(&complaint) {
                    self.metrics.reloaded(false);
                    tracing::warn!(target: "audit", event = "tls_reloaded", outcome = "FAILED", %error, "certificate and key cannot be used, the old ones stay");
                    known.complaint = Some(complaint);
                }
                Err(error)
            }
        }
    }

    /// Looks whether the files, or the number of places, are others now.
    fn look(&self, places: usize) {
        let mut known = self.known.lock();
        if known.files.stamp() != known.stamp {
            // Said there, and tried again at the next look.
            let _ = self.read_again(&mut known);
        }
        if places > known.places {
            self.places.add_permits(places - known.places);
            known.places = places;
        } else {
            // Those in use are taken away at another look.
            known.places -= self.places.forget_permits(known.places - places);
        }
    }

    fn expires(&self, moment: Option<i64>) {
        let Some(moment) = moment else { return };
        self.metrics.expires(moment);
        let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(moment).unwrap_or(0));
        let expires = super::app::rfc3339(end);
        match end.duration_since(SystemTime::now()) {
            Ok(left) if left > SOON => tracing::info!(expires, "TLS certificate"),
            Ok(_) => tracing::warn!(expires, "the TLS certificate expires soon"),
            Err(_) => tracing::error!(expires, "the TLS certificate has expired"),
        }
    }
}

impl App {
    /// Looks at the certificate from time to time, where there is one; returns where there is none.
    pub async fn watch_certificate(self: Arc<Self>) {
        let Some(tls) = self.tls() else { return };
        let mut looks = time::interval(LOOK);
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            tls.look(places(&self.config()));
        }
    }
}
