//! A bundle with one service, and a sidecar that proxies to it.

use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use parent_proxy::operator::PutCredential;
use parent_proxy::{Client, KeyFile, Target};
use qemu_dev::State;

/// What the caller `crew` shows at the TCP port.
pub const PLACEHOLDER: &str = "local-placeholder-no-real-secret";
/// What nobody but the service shall see.
pub const SECRET: &str = "sk-live-9b2f6c1e0d8a4f7bA+/=";

const RULES: &str = "{ name = \"chat\", methods = [\"POST\"], paths = [\"/chat\", \"/files/*\"], identities = [\"crew\"] },
    { name = \"read\", methods = [\"GET\", \"HEAD\"], paths = [\"/models\", \"/files/*\"], identities = [\"crew\"] }";

/// What is different from the usual.
pub struct With<'a> {
    /// Lines of `[[services]]`.
    pub service: &'a str,
    /// Its rules, in TOML.
    pub rules: &'a str,
    /// Where its credential goes, in TOML.
    pub inject: &'a str,
    /// What the caller `crew` shows at the TCP port.
    pub placeholder: &'a str,
    /// Where the service is, behind its host.
    pub base: &'a str,
    /// Names of identities; the first one is `crew`.
    pub identities: &'a [&'a str],
    /// Lines before `[[identities]]`.
    pub bundle: &'a str,
    /// Lines of `[proxy]`.
    pub proxy: &'a str,
    /// Lines of the sidecar's configuration before `[proxy]`.
    pub sidecar: &'a str,
    /// More of the sidecar's `addresses`, each with a comma behind it.
    pub addresses: &'a str,
    /// More arguments of the enclave.
    pub enclave: &'a [&'a str],
}

impl Default for With<'_> {
    fn default() -> Self {
        Self {
            service: "",
            rules: RULES,
            inject: "{ header = \"authorization\", format = \"Bearer {}\" }",
            placeholder: PLACEHOLDER,
            base: "/v1",
            identities: &["crew"],
            bundle: "",
            proxy: "",
            sidecar: "",
            addresses: "",
            enclave: &[],
        }
    }
}

/// Puts the credential of `crew`, by what a desk does.
///
/// # Panics
/// If it is not taken.
pub fn put_at(state: &State, socket: &Path, now: i64) {
    let (root, measurements, bundle) = state.verifier_files().expect("files of a verifier");
    let client = Client::new(Target::Unix(socket.to_owned()), None);
    let put = PutCredential {
        key: &KeyFile::read(&state.operator_key()).expect("an operator's key"),
        bundle: &bundle,
        image: &measurements,
        mock_root: Some(root),
        now,
        identity: "crew",
        service: "api",
        version: 1,
        secret: SECRET.as_bytes(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(put.send(&client)).expect("it is taken");
}

/// Lines of the sidecar's configuration. Credentials lie in a folder, unless `more` says where.
pub fn config(upstream: SocketAddr, port: u16, more: &str) -> String {
    let folder = match more.contains("credentials = ") {
        true => "",
        false => "credentials = \"credentials\"\n",
    };
    format!(
        "annex = \"annex.cose\"\n[proxy]\nsocket = \"proxy/agentkeys-proxy.sock\"\n{folder}\
         listen = \"127.0.0.1:{port}\"\n{more}\naddresses = {{ api = \"{upstream}\" }}\n\
         [[proxy.callers]]\nname = \"crew\"\ntoken_file = \"crew.token\"\n"
    )
}

/// The bundle for a service with this root certificate (PEM), and beside it the files that the configuration names.
///
/// # Panics
/// If they cannot be written.
pub fn bundle(state: &State, root: &str, with: &With<'_>) -> String {
    let token = state.folder().join("crew.token");
    std::fs::write(&token, with.placeholder).expect("a file");
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("its mode");
    // The first annex, so that there can be another.
    let annex = policy::Annex::from_toml("version = 1").expect("an annex");
    let signed = annex
        .sign(&KeyFile::read(&state.operator_key()).expect("an operator's key"))
        .expect("a signature");
    std::fs::write(state.folder().join("annex.cose"), signed).expect("a file");
    let identities: Vec<_> = with
        .identities
        .iter()
        .map(|name| (*name, "did:key", "EdDSA"))
        .collect();
    let text = state.development_policy(&identities).expect("a policy");
    let text = text.replace("callers = { ", "callers = { names = [\"crew\"], ");
    let (before, identities) = text.split_at(text.find("\n[[identities]]").expect("an identity"));
    format!(
        "{before}{}\n{identities}\n[[services]]\nname = \"api\"\nupstream = \"https://api.example{}\"\nroots = ['''{}''']\n\
         inject = {}\n{}\nrules = [{}]\n",
        with.bundle, with.base, root, with.inject, with.service, with.rules
    )
}

/// A TCP port of this host that was free a moment ago.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A certificate in the form that bundles have it in (RFC 7468).
pub fn pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
