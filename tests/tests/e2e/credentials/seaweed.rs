//! A store of others.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::services::{With, free_port};
use serde_json::{Value, json};

use super::setting::Setting;
use super::upstream::{Upstream, answer};

/// A program of the clients' virtual environment.
fn python(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/.venv-clients/bin");
    folder.join(name)
}

/// SeaweedFS, which speaks S3, in a folder of its own.
pub(crate) struct Seaweed {
    pub(crate) process: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Seaweed {
    pub(crate) const ID: &str = "AKIATOYTOYTOYTOYTOY0";
    pub(crate) const KEY: &str = "toy/secret+key0123456789abcdefghijklmnop";

    /// One that answers.
    pub(crate) fn start() -> Self {
        // Another test may have taken one of its eight ports meanwhile: then it ends.
        let mut tries = (0..5).filter_map(|_| Self::begin().answers());
        tries.next().expect("SeaweedFS")
    }

    /// Itself, once it answers as a whole: who is nobody is refused. None if it has ended.
    fn answers(mut self) -> Option<Self> {
        let asked = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for _ in 0..600 {
            if self.ask(asked).contains(" 403 ") {
                return Some(self);
            }
            if self.process.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        None
    }

    fn begin() -> Self {
        let folder = harness::private_folder();
        let config = folder.path().join("s3.json");
        let identities = json!({"identities": [{
            "name": "toy",
            "credentials": [{"accessKey": Self::ID, "secretKey": Self::KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        fs::write(&config, identities.to_string()).unwrap();
        let port = free_port();
        let mut command = Command::new(python("weed"));
        command.args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-volume.max=60",
        ]);
        command.arg("-master.volumeSizeLimitMB=64");
        command.arg(format!("-dir={}", folder.path().display()));
        command.arg(format!("-s3.config={}", config.display()));
        command.arg(format!("-s3.port={port}"));
        command.arg(format!(
            "-s3.localSocket={}",
            folder.path().join("s3.sock").display()
        ));
        command.arg(format!(
            "-filer.localSocket={}",
            folder.path().join("filer.sock").display()
        ));
        for part in ["master", "volume", "filer", "s3"] {
            command.arg(format!("-{part}.port.grpc={}", free_port()));
        }
        for part in ["master", "volume", "filer"] {
            command.arg(format!("-{part}.port={}", free_port()));
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self {
            process: process.unwrap(),
            port,
            _folder: folder,
        }
    }

    /// Passes these bytes on, and gives the answer as it came.
    pub(crate) fn pass(port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn ask(&self, request: &[u8]) -> String {
        let answer = Self::pass(self.port, request).unwrap_or_default();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Seaweed {
    /// What a line of Python says of the bucket, by boto3.
    fn bucket(&self, line: &str) -> Value {
        let program = format!(
            "import boto3, json\ns3 = boto3.client('s3', endpoint_url='http://127.0.0.1:{}', region_name='us-east-1', \
             aws_access_key_id='{}', aws_secret_access_key='{}')\nprint(json.dumps({line}))",
            self.port,
            Self::ID,
            Self::KEY
        );
        let output = Command::new(python("python"))
            .args(["-c", &program])
            .output()
            .unwrap();
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{says}"))
    }
}

#[test]
fn credentials_lie_in_a_bucket_and_are_put_upon_what_was_read() {
    let mut seaweed = Seaweed::start();
    seaweed.bucket("s3.create_bucket(Bucket='vault') and 1");
    let folder = harness::private_folder();
    let file = folder.path().join("aws");
    let (id, key) = (Seaweed::ID, Seaweed::KEY);
    let profile = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {key}\n");
    fs::write(&file, profile).unwrap();
    let place = format!(
        "credentials = \"s3://vault/kept/here\"\ns3 = {{ region = \"us-east-1\", endpoint = \"http://127.0.0.1:{}\" }}",
        seaweed.port
    );
    let aws = format!("[aws]\ncredentials = \"{}\"\n", file.display());
    let with = With {
        proxy: &place,
        sidecar: &aws,
        ..With::default()
    };
    let setting = Setting::with(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")), &with);
    let ask = || setting.ask("GET /api/models", "", b"");
    let code = |answer: &harness::Answer| answer.header("x-anchorhold-error").unwrap_or_default();
    assert_eq!(code(&ask()), "credential_missing");
    let put = |version: &str| {
        setting.put(
            "crew",
            "sk-live-0123456789",
            &["--credential-version", version],
        )
    };
    assert!(put("7").status.success());
    assert_eq!(ask().status, 200);
    let listed =
        seaweed.bucket("[item['Key'] for item in s3.list_objects_v2(Bucket='vault')['Contents']]");
    let [object] = &listed.as_array().unwrap()[..] else {
        panic!("{listed}");
    };
    let object = object.as_str().unwrap();
    assert!(
        object.starts_with("kept/here/bots/") && object.ends_with("/credentials/api.enc"),
        "{object}"
    );
    let begins = format!("s3.get_object(Bucket='vault', Key='{object}')['Body'].read().hex()");
    let bytes = seaweed.bucket(&begins);
    // Form 5, epoch 1, version 7.
    assert!(
        bytes
            .as_str()
            .unwrap()
            .starts_with("05000000010000000000000007"),
        "{bytes}"
    );
    let refused = put("6");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("credential_outdated"));
    // Two desks at once: whoever is first, the newer one is kept.
    let two = ["11", "12", "13"].map(|version| (version, put));
    let all: Vec<bool> = std::thread::scope(|scope| {
        let running = two.map(|(version, put)| scope.spawn(move || put(version).status.success()));
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(all[2], "{all:?}");
    let kept = setting.command(&["list"], "");
    let kept: Value = serde_json::from_slice(&kept.stdout).unwrap();
    assert_eq!(kept["credentials"][0]["version"], 13);
    assert_eq!(ask().status, 200);
    let desk = super::setting::desk(&setting.running.state);
    let desk: Vec<&str> = desk.iter().map(String::as_str).collect();
    assert!(
        setting
            .command(&[&["rotate"][..], &desk].concat(), "")
            .status
            .success()
    );
    let done = setting.command(&["rewrap"], "");
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["rewrapped"][0]["epoch"], 2);
    assert!(
        setting
            .command(&[&["retire"][..], &desk].concat(), "")
            .status
            .success()
    );
    assert_eq!(ask().status, 200);
    assert!(
        seaweed
            .bucket(&begins)
            .as_str()
            .unwrap()
            .starts_with("0500000002000000000000000d")
    );
    let which = ["remove", "--identity", "crew", "--service", "api"];
    assert!(setting.command(&which, "").status.success());
    assert_eq!(code(&ask()), "credential_missing");
    // Without the store nothing is kept, and that is said.
    seaweed.process.kill().unwrap();
    seaweed.process.wait().unwrap();
    let lost = put("20");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("credential_unreadable"));
}
