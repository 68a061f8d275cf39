//! Azure Key Vault, Microsoft Entra and the VM's metadata service (IMDS) on the loopback.
//!
//! Everything is served over real sockets with the real services' shapes, so that any Azure client works against it
//! unchanged. [`Emulator::start`] gives a handle whose methods edit what the services hold and how they behave:
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use azure_emulator::{Config, Emulator, Federation, Permissions};
//!
//! let azure = Emulator::start(Config::default()).await?;
//! let app = azure.entra().add_identity("reader");
//! azure.entra().federate(
//!     &app.client_id,
//!     Federation::new("https://issuer.example", "system:serviceaccount:default:reader"),
//! )?;
//! let vault = azure.vault("kv1");
//! vault.set_secret("db-password", "s3cr3t")?;
//! vault.grant(&app.client_id, Permissions::read());
//! println!("{} and {}", azure.authority_url(), vault.url());
//! azure.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The same state can be edited over plain HTTP at `/_control/…` (see [`control`]), which is how the program
//! `azure-emulator` is driven.

mod clock;
pub mod control;
mod counters;
mod crypto;
mod emulator;
mod entra;
mod error;
mod faults;
mod http;
mod imds;
mod keyvault;
mod seed;
mod server;
mod tls;

pub use clock::Clock;
pub use counters::{Counters, LogEntry, Telemetry};
pub use emulator::{Config, Emulator};
pub use entra::{CertificateCredential, Entra, Federation, Identity};
pub use error::Error;
pub use faults::{Extent, Fault, FaultRule, Faults, RetryAfter, Service};
pub use imds::Imds;
pub use keyvault::{AccessModel, JwkQuirks, Network, ObjectKind, Operation, Permissions, Vault, VaultGrant};
pub use seed::Seed;
