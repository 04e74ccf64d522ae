//! Image files: ours against AWS's own crate, signed images, wrong input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dev_guest::wire::MARKER;
use eif::{Image, Measurements, Parts, SigningKey, describe};
use harness::machine::image;
use harness::{private_folder, program};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::os_random;
use serde_json::{Value, json};

const NOW: u64 = 1_795_225_251;

/// AWS's crate, in a program of its own that `tests/run` has built.
fn aws(arguments: &[&Path]) -> Vec<u8> {
    let beside = program("anchorhold-eif");
    let reference = beside
        .ancestors()
        .nth(2)
        .unwrap()
        .join("aws-reference/debug/aws-reference");
    assert!(
        reference.is_file(),
        "{} is not built; run tests/run",
        reference.display()
    );
    let output = Command::new(reference).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn aws_describes(file: &Path) -> Value {
    serde_json::from_slice(&aws(&[Path::new("describe"), file])).unwrap()
}

fn ours_describes(file: &Path) -> Value {
    serde_json::from_str(&describe(&eif::read_file(file).unwrap()).unwrap()).unwrap()
}

/// Both find the same in it.
fn agree(file: &Path, what: &str) {
    let (mut aws, mut ours) = (aws_describes(file), ours_describes(file));
    // Not a name but how Rust prints the hasher: "Sha384 { ... }" or "Sha512_48 { .. }", as that
    // crate's version has it.
    for described in [&mut aws, &mut ours] {
        let algorithm = described["Measurements"]
            .as_object_mut()
            .unwrap()
            .remove("HashAlgorithm")
            .unwrap();
        assert!(algorithm.as_str().unwrap().starts_with("Sha"));
    }
    for member in ["Measurements", "CheckCRC", "ImageName"] {
        assert_eq!(
            aws[member],
            ours.get(member).cloned().unwrap_or_default(),
            "{what}: {member}"
        );
    }
    assert_eq!(
        aws["SignatureCheck"],
        ours.get("SignatureCheck").cloned().unwrap_or_default(),
        "{what}"
    );
    if !ours["IsSigned"].as_bool().unwrap() {
        return;
    }
    for member in ["Algorithm", "Signature"] {
        assert_eq!(
            aws["SigningCertificate"][member], ours["SigningCertificate"][member],
            "{what}: {member}"
        );
    }
    assert_eq!(
        aws["SigningCertificate"]["IssuerName"], ours["SigningCertificate"]["IssuerName"],
        "{what}"
    );
}

fn metadata(name: &str) -> Value {
    json!({
        "ImageName": name, "ImageVersion": "", "DockerInfo": {}, "CustomMetadata": null,
        "BuildMetadata": {"BuildTime": "", "BuildTool": "", "BuildToolVersion": "", "OperatingSystem": "", "KernelVersion": ""},
    })
}

fn signing_key() -> (SigningKey, String, String) {
    let authority = Authority::new(NOW, &mut os_random);
    let (key, certificate) = (authority.key_pem(), authority.certificate_pem());
    (
        SigningKey::new(&key, &certificate).unwrap(),
        key,
        certificate,
    )
}

#[test]
fn measurements_equal_those_of_awss_own_crate_on_our_images_and_on_odd_ones() {
    agree(&image("signer.eif"), "production");
    agree(&image("signer-dev.eif"), "development");
    let folder = private_folder();
    let out = folder.path().join("odd.eif");
    let bytes = eif::read_file(&image("signer-dev.eif")).unwrap();
    let parsed = Image::parse(&bytes).unwrap();
    let (key, ..) = signing_key();
    let three: Vec<&[u8]> = vec![b"first", b"", b"third ramdisk"];
    let (named, nameless) = (metadata("x").to_string(), metadata("").to_string());
    for (ramdisks, metadata) in [
        (vec![&b"only"[..]], &named),
        (three, &nameless),
        (parsed.ramdisks.clone(), &"null".to_owned()),
    ] {
        for signed in [false, true] {
            let signature = signed.then(|| key.sign(parsed.kernel, b"a=b", &ramdisks));
            let parts = Parts {
                kernel: parsed.kernel,
                cmdline: "a=b",
                metadata: metadata.as_bytes(),
                ramdisks: &ramdisks,
                signature: signature.as_deref(),
            };
            std::fs::write(&out, parts.to_image().unwrap()).unwrap();
            agree(
                &out,
                &format!(
                    "{} ramdisks, metadata {metadata}, signed: {signed}",
                    ramdisks.len()
                ),
            );
        }
    }
}

#[test]
fn images_that_awss_own_crate_builds_are_ours_byte_for_byte() {
    let folder = private_folder();
    let at = |name: &str| folder.path().join(name);
    let bytes = eif::read_file(&image("signer-dev.eif")).unwrap();
    let parsed = Image::parse(&bytes).unwrap();
    std::fs::write(at("kernel"), parsed.kernel).unwrap();
    let contents: [&[u8]; 3] = [b"first ramdisk", b"second", b"third"];
    let files: Vec<PathBuf> = (0..3).map(|index| at(&format!("ramdisk{index}"))).collect();
    for (file, content) in files.iter().zip(contents) {
        std::fs::write(file, content).unwrap();
    }
    // Ours writes the members in this order too.
    let text = r#"{"ImageName":"n","ImageVersion":"v","BuildMetadata":{"BuildTime":"","BuildTool":"t","BuildToolVersion":"0","OperatingSystem":"Linux","KernelVersion":"6"},"DockerInfo":null,"CustomMetadata":null}"#;
    std::fs::write(at("metadata"), text).unwrap();
    for count in 1..=3 {
        let (out, kernel, metadata) = (at("aws.eif"), at("kernel"), at("metadata"));
        let mut arguments = vec![
            Path::new("build"),
            &out,
            &kernel,
            Path::new("console=ttyS0"),
            &metadata,
        ];
        arguments.extend(files[..count].iter().map(PathBuf::as_path));
        aws(&arguments);
        let parts = Parts {
            kernel: parsed.kernel,
            cmdline: "console=ttyS0",
            metadata: text.as_bytes(),
            ramdisks: &contents[..count],
            signature: None,
        };
        assert!(
            std::fs::read(&out).unwrap() == parts.to_image().unwrap(),
            "{count} ramdisks"
        );
    }
}

#[test]
fn a_signed_image_shows_pcr8_and_another_images_signature_is_refused() {
    let bytes = eif::read_file(&image("signer-dev.eif")).unwrap();
    let parsed = Image::parse(&bytes).unwrap();
    let (key, _, certificate) = signing_key();
    let signature = key.sign(parsed.kernel, parsed.cmdline, &parsed.ramdisks);
    assert_eq!(
        signature,
        key.sign(parsed.kernel, parsed.cmdline, &parsed.ramdisks),
        "deterministic"
    );
    let with = |signature: &[u8]| {
        Parts {
            signature: Some(signature),
            ..parsed.parts().unwrap()
        }
        .to_image()
        .unwrap()
    };
    let file = with(&signature);
    let described: Value = serde_json::from_str(&describe(&file).unwrap()).unwrap();
    assert_eq!(
        (&described["IsSigned"], &described["SignatureCheck"]),
        (&json!(true), &json!(true))
    );
    let unsigned = Measurements::of(&parsed).unwrap();
    let signed = Measurements::of(&Image::parse(&file).unwrap()).unwrap();
    assert_eq!(
        (&signed.pcr0, &signed.pcr1, &signed.pcr2),
        (&unsigned.pcr0, &unsigned.pcr1, &unsigned.pcr2)
    );
    let der = pem_to_der(&certificate);
    let extended = identity::extend(&identity::Digest([0; 48]), &sha384(&der));
    assert_eq!(signed.pcr8.unwrap(), extended.to_string());
    // The signature of another image, and one bit of this one.
    let other = key.sign(parsed.kernel, b"other", &parsed.ramdisks);
    assert_eq!(describe(&with(&other)).unwrap_err().code(), "signature");
    let mut flipped = signature.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(describe(&with(&flipped)).unwrap_err().code(), "signature");
    for length in (0..signature.len()).step_by(7) {
        assert_eq!(
            describe(&with(&signature[..length])).unwrap_err().code(),
            "signature",
            "{length}"
        );
    }
}

fn pem_to_der(pem: &str) -> Vec<u8> {
    let body: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    data_encoding::BASE64.decode(body.as_bytes()).unwrap()
}

fn sha384(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, bytes)
        .as_ref()
        .to_vec()
}

fn eif(arguments: &[&str]) -> Output {
    Command::new(program("anchorhold-eif"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_image_tool_says_what_is_wrong() {
    let folder = private_folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .display()
        .to_string();
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let output = eif(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && text.contains(says),
            "{arguments:?}: {:?} {text}",
            output.status
        );
        assert!(output.stdout.is_empty());
    };
    std::fs::write(at("text"), "no image").unwrap();
    refused(&["describe", &at("text")], 1, "[not_an_image]");
    refused(&["describe", &at("missing")], 64, "No such file");
    refused(&["describe", "/dev/zero"], 64, "not a regular file");
    refused(&["describe"], 64, "FILE");
    let build = |more: &[&str]| {
        let mut arguments = vec![
            "build".to_owned(),
            "-o".into(),
            at("out.eif"),
            "--source".into(),
            source.clone(),
            "--cache".into(),
            at("cache"),
        ];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments
    };
    let refused_build = |more: &[&str], code: i32, says: &str| {
        let arguments = build(more);
        refused(
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            code,
            says,
        );
        assert!(!Path::new(&at("out.eif")).exists());
    };
    refused_build(&["--kernel", &at("text")], 64, "[not_a_bz_image]");
    refused_build(
        &["--kernel", &program("anchorhold-eif").display().to_string()],
        64,
        "no 64-bit bzImage",
    );
    refused_build(&["--kernel", &at("missing")], 64, "No such file");
    refused_build(
        &["--kernel-source", &at("missing")],
        64,
        "linux-source-6.12",
    );
    refused(
        &["build", "-o", &at("out.eif"), "--source", &at("")],
        64,
        "not the source of anchorhold",
    );
    refused_build(&["--signing-key", &at("text")], 64, "--signing-certificate");
    let (_, key, certificate) = signing_key();
    let (_, other, _) = signing_key();
    for (name, text) in [
        ("key", &key),
        ("certificate", &certificate),
        ("other", &other),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    refused_build(
        &[
            "--signing-key",
            &at("text"),
            "--signing-certificate",
            &at("certificate"),
        ],
        64,
        "no P-384 private key",
    );
    refused_build(
        &[
            "--signing-key",
            &at("key"),
            "--signing-certificate",
            &at("text"),
        ],
        64,
        "no X.509 certificate",
    );
    refused_build(
        &[
            "--signing-key",
            &at("other"),
            "--signing-certificate",
            &at("certificate"),
        ],
        64,
        "for another key",
    );
    // Tools that are missing.
    let kernel = Path::new(&at("kernel")).to_owned();
    let bytes = eif::read_file(&image("signer-dev.eif")).unwrap();
    std::fs::write(&kernel, Image::parse(&bytes).unwrap().kernel).unwrap();
    let arguments = build(&["--kernel", &kernel.display().to_string()]);
    let output = Command::new(program("anchorhold-eif"))
        .args(&arguments)
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("cargo is missing; on Debian: apt-get install")
    );
}

#[test]
fn nobody_but_root_and_who_builds_can_choose_the_compiler() {
    use std::fs::{create_dir, create_dir_all, remove_file, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    // Not in the folder for temporary files, which is refused.
    let target = program("anchorhold-eif")
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    let base = tempfile::tempdir_in(target).unwrap();
    let base = std::fs::canonicalize(base.path()).unwrap();
    let (above, home) = (base.join("above"), base.join("home"));
    let source = above.join("source");
    let plant = |source: &Path| {
        for file in [
            "Cargo.lock",
            "enclave/Cargo.toml",
            "qemu-dev/guest/Cargo.toml",
        ] {
            create_dir_all(source.join(file).parent().unwrap()).unwrap();
            write(source.join(file), "").unwrap();
        }
    };
    plant(&source);
    create_dir(&home).unwrap();
    create_dir(above.join(".cargo")).unwrap();
    for file in [".cargo/config.toml", ".cargo/config", "rust-toolchain.toml"] {
        write(above.join(file), "").unwrap();
    }
    write(home.join("config.toml"), "").unwrap();
    let build = |source: &Path| {
        let mut command = Command::new(program("anchorhold-eif"));
        command
            .args([
                "build",
                "-o",
                "/nonexistent/out.eif",
                "--kernel",
                "/nonexistent/kernel",
                "--source",
            ])
            .arg(source);
        let output = command.env("CARGO_HOME", &home).output().unwrap();
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8(output.stderr).unwrap()
    };
    // The place is good: what is missed next is the kernel.
    let accepted = || {
        assert!(
            build(&source).contains("/nonexistent/kernel"),
            "{}",
            build(&source)
        )
    };
    let refused = |source: &Path, what: &Path, why: &str| {
        let says = build(source);
        assert!(
            says.contains(&format!(": {}: {why}.", what.display()))
                && says.contains("[others_can_write]"),
            "{says}"
        );
    };
    accepted();
    let with_mode = |path: &Path, mode: u32, act: &dyn Fn()| {
        let before = std::fs::metadata(path).unwrap().permissions();
        set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        act();
        set_permissions(path, before).unwrap();
    };
    for folder in [&base, &above, &above.join(".cargo"), &source, &home] {
        for mode in [0o777, 0o1777, 0o770, 0o702, 0o1720] {
            with_mode(folder, mode, &|| {
                refused(&source, folder, "other users can make files in it")
            });
        }
    }
    for file in [
        ".cargo/config.toml",
        ".cargo/config",
        "rust-toolchain.toml",
        "../home/config.toml",
    ] {
        let file = std::fs::canonicalize(above.join(file)).unwrap();
        for mode in [0o666, 0o660, 0o602] {
            with_mode(&file, mode, &|| {
                refused(&source, &file, "other users can write to it")
            });
        }
    }
    accepted();
    // The real path counts, and every link on the way.
    let shared = base.join("shared");
    plant(&shared.join("source"));
    write(shared.join("config"), "").unwrap();
    set_permissions(&shared, PermissionsExt::from_mode(0o1777)).unwrap();
    let link = base.join("link");
    symlink(shared.join("source"), &link).unwrap();
    refused(&link, &shared, "other users can make files in it");
    let config = above.join(".cargo/config.toml");
    for to in ["../../shared/config", "../../shared/missing"] {
        remove_file(&config).unwrap();
        symlink(to, &config).unwrap();
        let shown = above.join(".cargo/../../shared");
        refused(&source, &shown, "other users can make files in it");
    }
    remove_file(&config).unwrap();
    symlink("config", &config).unwrap();
    accepted();
    // Where everybody can make files, the sticky bit or not.
    let temporary = private_folder();
    plant(temporary.path());
    if std::fs::metadata("/tmp").unwrap().permissions().mode() & 0o002 != 0
        && temporary.path().starts_with("/tmp")
    {
        refused(
            temporary.path(),
            Path::new("/tmp"),
            "other users can make files in it",
        );
    }
    if !rustix::process::geteuid().is_root() {
        return harness::skipped("giving files to another user needs root");
    }
    for path in [
        &base,
        &above,
        &above.join(".cargo"),
        &above.join(".cargo/config"),
        &source,
        &home,
        &home.join("config.toml"),
    ] {
        chown(path, Some(4321), None).unwrap();
        refused(&source, path, "another user owns it");
        chown(path, Some(0), None).unwrap();
    }
    accepted();
}

#[test]
fn the_production_program_holds_no_mock_code_and_the_check_finds_it_where_it_is() {
    let target = program("anchorhold-eif");
    let unstripped = |name: &str| {
        std::fs::read(target.ancestors().nth(2).unwrap().join("image").join(name)).unwrap()
    };
    let holds =
        |program: &[u8], what: &[u8]| program.windows(what.len()).any(|window| window == what);
    let (production, development) = (
        unstripped("anchorhold-enclave"),
        unstripped("anchorhold-dev-enclave"),
    );
    for sign in [MARKER.as_bytes(), b"qemu_dev", b"dev_guest"] {
        assert!(
            !holds(&production, sign),
            "{}",
            String::from_utf8_lossy(sign)
        );
    }
    assert!(holds(&development, MARKER.as_bytes()) && holds(&development, b"dev_guest"));
    // Symbols are there to be searched.
    assert!(holds(&production, b"attest_to_itself"));
}

#[test]
fn the_image_is_small_and_holds_one_program_and_nothing_else() {
    for name in ["signer.eif", "signer-dev.eif"] {
        let bytes = eif::read_file(&image(name)).unwrap();
        assert!(bytes.len() <= 8 << 20, "{name}: {} bytes", bytes.len());
        let parsed = Image::parse(&bytes).unwrap();
        let mut names = Vec::new();
        for ramdisk in &parsed.ramdisks {
            let mut archive = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(*ramdisk), &mut archive)
                .unwrap();
            let mut reader = cpio::NewcReader::new(archive.as_slice()).unwrap();
            while !reader.entry().is_trailer() {
                names.push(reader.entry().name().to_owned());
                reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
            }
        }
        assert_eq!(names, ["dev", "sys", "init"], "{name}");
        let metadata = String::from_utf8_lossy(parsed.metadata);
        assert!(
            metadata.contains(r#""BuildTime":"""#) && metadata.contains(r#""Commit":""#),
            "{metadata}"
        );
        assert!(
            metadata.contains(r#""KernelVersion":"6.12."#)
                && metadata.contains(r#""LibcSha256":""#),
            "{metadata}"
        );
    }
}
