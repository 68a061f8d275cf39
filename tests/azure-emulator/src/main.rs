//! The program: Key Vault, Entra and IMDS on the loopback until it is told to stop.

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use azure_emulator::{Config, Emulator, Seed};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Key Vault, Microsoft Entra and the VM's metadata service on the loopback.
///
/// One HTTPS address is the authority and every vault, told apart by the host name asked for; certificates for any
/// name are made on the spot by an authority of its own, which --ca-file receives. Host names that name no vault,
/// such as 127.0.0.1 and localhost, are the authority, and the first vault for /secrets, /keys and /certificates.
///
/// When everything listens, one line of JSON with all addresses goes to standard output. SIGTERM or Ctrl-C ends it.
#[derive(Debug, Parser)]
#[command(name = "azure-emulator", version, after_long_help = EXAMPLES)]
struct Arguments {
    /// Address of authority and vaults; may be given several times. Port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    https: Vec<SocketAddr>,

    /// Address of the metadata service (plain HTTP). Clients find it by `AZURE_POD_IDENTITY_AUTHORITY_HOST`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8079")]
    imds: SocketAddr,

    /// Address of the control interface (plain HTTP); `curl http://ADDRESS/_control` lists what it can do.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8078")]
    control: SocketAddr,

    /// Where to write the certificate authority (PEM) that clients must trust.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Host name of the authority; the HTTPS port is appended unless it is 443 or the name is a public Azure one.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    authority_host: String,

    /// What follows the vault's name in its host name; the port as for --authority-host.
    #[arg(long, value_name = "SUFFIX", default_value = "vault.localhost")]
    vault_suffix: String,

    /// The tenant that exists from the start.
    #[arg(long, value_name = "ID", default_value = "11111111-2222-4333-8444-555555555555")]
    tenant: String,

    /// A JSON document of tenants, identities and vaults to begin with.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

const EXAMPLES: &str = r#"Example:
  azure-emulator --ca-file ca.pem --state seed.json

with seed.json:
  {
    "identities": [{
      "name": "reader", "clientId": "aaaaaaaa-0000-4000-8000-000000000001",
      "secrets": [{ "value": "client-secret" }],
      "federations": [{ "issuer": "https://issuer.example", "subject": "system:serviceaccount:default:reader" }],
      "userAssigned": true
    }],
    "vaults": [{
      "name": "kv1",
      "grants": [{ "clientId": "aaaaaaaa-0000-4000-8000-000000000001", "permissions": "all" }],
      "secrets": [{ "name": "db-password", "value": "s3cr3t", "contentType": "text/plain" }],
      "keys": [{ "name": "signing", "kty": "EC", "crv": "P-256" }],
      "certificates": [{ "name": "web", "policy": { "x509_props": { "subject": "CN=web.example" } } }]
    }]
  }

Objects have the bodies of Key Vault's own REST operations plus a name. Then, with the emulator's CA trusted,
instance discovery and challenge resource verification switched off, any Azure SDK client works:
  SecretClient("https://127.0.0.1:8443",
      ClientSecretCredential("11111111-2222-4333-8444-555555555555", "aaaaaaaa-0000-4000-8000-000000000001",
          "client-secret", authority="https://localhost:8443", disable_instance_discovery=True),
      verify_challenge_resource=False).get_secret("db-password")"#;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("azure-emulator: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // Signals are caught before anybody can know that there is something to stop.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let seed = match &arguments.state {
        Some(path) => {
            let json =
                std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            Some(Seed::parse(&json).map_err(|error| format!("{}: {error}", path.display()))?)
        }
        None => None,
    };
    let emulator = Emulator::start(Config {
        https: arguments.https,
        imds: Some(arguments.imds),
        control: Some(arguments.control),
        authority_host: arguments.authority_host,
        vault_suffix: arguments.vault_suffix,
        tenant: arguments.tenant,
    })
    .await?;
    if let Some(seed) = &seed {
        emulator.apply(seed)?;
    }
    if let Some(path) = &arguments.ca_file {
        std::fs::write(path, emulator.ca_pem())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let ready = json!({
        "https": emulator.https_addr(),
        "imds": emulator.imds_url(),
        "control": emulator.control_addr().map(|address| format!("http://{address}/_control")),
        "authority": emulator.authority_url(),
        "vaultSuffix": emulator.vault_suffix(),
        "vaultResource": emulator.vault_resource(),
        "tenant": emulator.tenant(),
        "caFile": arguments.ca_file,
    });
    let mut output = std::io::stdout().lock();
    writeln!(output, "{ready}")?;
    output.flush()?;
    drop(output);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    emulator.shutdown().await;
    Ok(())
}
