//! Image files, made and refused.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Read;

use eif::{Entry, Error, Image, Measurements, Parts, describe, ramdisk, read_file};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha384};

const CRC_AT: usize = 544;
const HEADER: usize = 548;
const METADATA: &[u8] = br#"{"ImageName":"x","ImageVersion":"1","BuildMetadata":{"BuildTime":"","BuildTool":"t","BuildToolVersion":"0","OperatingSystem":"Linux","KernelVersion":"6"},"DockerInfo":null,"CustomMetadata":{"Commit":"c"}}"#;

/// The setup header of a kernel, and a little more.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![7; 1024];
    kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x236] = 1;
    kernel
}

fn image(ramdisks: &[&[u8]]) -> Vec<u8> {
    let kernel = kernel();
    Parts {
        kernel: &kernel,
        cmdline: "console=ttyS0",
        metadata: METADATA,
        ramdisks,
        signature: None,
    }
    .to_image()
    .unwrap()
}

/// With the checksum that belongs to what it now is.
fn resealed(mut file: Vec<u8>) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&file[..CRC_AT]);
    crc.update(&file[HEADER..]);
    file[CRC_AT..HEADER].copy_from_slice(&crc.finalize().to_be_bytes());
    file
}

fn changed(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = image(&[b"one", b"two"]);
    change(&mut file);
    resealed(file)
}

fn code(file: &[u8]) -> &'static str {
    describe(file).unwrap_err().code()
}

fn set(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn every_malformed_image_is_refused_for_its_own_reason() {
    let good = image(&[b"one", b"two"]);
    assert!(describe(&good).is_ok());
    let offset = |index: usize| 28 + 8 * index;
    let size = |index: usize| 28 + 256 + 8 * index;
    let second = HEADER + 12 + 1024;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not_an_image", b"\x7fELF and more".to_vec()),
        ("not_an_image", Vec::new()),
        ("truncated", b".eif".to_vec()),
        ("version_unsupported", changed(|f| set(f, 4, &[0, 3]))),
        ("version_unsupported", changed(|f| set(f, 4, &[0xff, 0xff]))),
        ("wrong_architecture", changed(|f| set(f, 6, &[0, 1]))),
        ("wrong_architecture", changed(|f| set(f, 6, &[0x80, 0]))),
        ("section_count", changed(|f| set(f, 26, &[0xff, 0xff]))),
        ("section_count", changed(|f| set(f, 26, &[0, 33]))),
        ("section_count", changed(|f| set(f, 26, &[0, 0]))),
        ("section_count", changed(|f| set(f, 26, &[0, 3]))),
        // Fewer than there are: the table's rest is not zero.
        ("reserved", changed(|f| set(f, 26, &[0, 4]))),
        ("reserved", changed(|f| set(f, 24, &[0, 1]))),
        ("reserved", changed(|f| set(f, 540, &[0, 0, 0, 1]))),
        ("reserved", changed(|f| set(f, offset(31), &[1]))),
        // Overlapping, gapped, huge.
        (
            "section",
            changed(|f| set(f, offset(1), &(HEADER as u64).to_be_bytes())),
        ),
        (
            "section",
            changed(|f| set(f, offset(1), &(second as u64 + 1).to_be_bytes())),
        ),
        (
            "section",
            changed(|f| set(f, offset(1), &u64::MAX.to_be_bytes())),
        ),
        (
            "section",
            changed(|f| set(f, offset(0), &0_u64.to_be_bytes())),
        ),
        (
            "section",
            changed(|f| set(f, size(0), &u64::MAX.to_be_bytes())),
        ),
        (
            "truncated",
            changed(|f| {
                set(f, size(0), &u64::MAX.to_be_bytes());
                set(f, HEADER + 4, &u64::MAX.to_be_bytes());
            }),
        ),
        (
            "truncated",
            changed(|f| {
                set(f, size(0), &(1_u64 << 40).to_be_bytes());
                set(f, HEADER + 4, &(1_u64 << 40).to_be_bytes());
            }),
        ),
        // Kinds.
        ("section", changed(|f| set(f, HEADER, &[0, 0]))),
        ("section", changed(|f| set(f, HEADER, &[0, 6]))),
        ("section", changed(|f| set(f, HEADER, &[0, 2]))),
        ("section", changed(|f| set(f, HEADER, &[0, 3]))),
        ("section", changed(|f| set(f, second, &[0, 1]))),
        ("section", changed(|f| set(f, HEADER + 2, &[0, 1]))),
        ("trailing_bytes", resealed([good.as_slice(), b"x"].concat())),
        ("crc_mismatch", {
            let mut file = good.clone();
            file[CRC_AT] ^= 1;
            file
        }),
    ];
    for (index, (expected, file)) in cases.iter().enumerate() {
        assert_eq!(code(file), *expected, "case {index}");
    }
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let good = image(&[b"one", b"two"]);
    for length in 0..good.len() {
        let refused = code(&good[..length]);
        assert!(
            ["not_an_image", "truncated"].contains(&refused),
            "{length}: {refused}"
        );
        if length >= HEADER {
            assert_eq!(
                code(&resealed(good[..length].to_vec())),
                "truncated",
                "{length}"
            );
        }
    }
}

#[test]
fn no_changed_byte_goes_unnoticed_and_none_panics_when_resealed() {
    let good = image(&[b"one", b"two"]);
    for at in 0..good.len() {
        for bit in [0x01, 0x80] {
            let mut file = good.clone();
            file[at] ^= bit;
            assert!(describe(&file).is_err(), "byte {at}");
            let _ = describe(&resealed(file));
        }
    }
}

#[test]
fn metadata_that_cannot_be_read_is_refused() {
    let kernel = kernel();
    let with = |metadata: &[u8]| {
        let parts = Parts {
            kernel: &kernel,
            cmdline: "",
            metadata,
            ramdisks: &[b"one"],
            signature: None,
        };
        describe(&parts.to_image().unwrap())
    };
    assert!(!with(b"null").unwrap().contains("Metadata"));
    let nested = "[".repeat(100_000);
    let list = std::str::from_utf8(METADATA)
        .unwrap()
        .replace("{\"Commit\":\"c\"}", "[1]");
    for bad in [
        &b""[..],
        b"{}",
        b"{\"ImageName\":1}",
        b"\xff\xfe",
        b"[1",
        nested.as_bytes(),
        list.as_bytes(),
    ] {
        assert!(
            matches!(with(bad), Err(Error::Metadata(_))),
            "{:?}",
            &bad[..bad.len().min(20)]
        );
    }
}

#[test]
fn what_is_described_is_what_was_measured() {
    let register = |parts: &[&[u8]]| {
        let inner = Sha384::digest(parts.concat());
        data_encoding::HEXLOWER.encode(&Sha384::digest([&[0; 48][..], &inner].concat()))
    };
    let (kernel, cmdline) = (kernel(), b"console=ttyS0");
    let ramdisks: [&[u8]; 3] = [b"one", b"two", b"three"];
    for count in 1..=3 {
        let file = image(&ramdisks[..count]);
        let measured = Measurements::of(&Image::parse(&file).unwrap()).unwrap();
        assert_eq!(
            measured.pcr0,
            register(&[&kernel, cmdline, &ramdisks[..count].concat()])
        );
        assert_eq!(measured.pcr1, register(&[&kernel, cmdline, b"one"]));
        assert_eq!(measured.pcr2, register(&[&ramdisks[1..count].concat()]));
        assert_eq!(measured.pcr8, None);
        let described: serde_json::Value = serde_json::from_str(&describe(&file).unwrap()).unwrap();
        assert_eq!(described["Measurements"]["PCR0"], measured.pcr0);
        assert_eq!(described["Measurements"]["HashAlgorithm"], "Sha384 { ... }");
        assert_eq!(
            (
                described["IsSigned"].as_bool(),
                described["CheckCRC"].as_bool()
            ),
            (Some(false), Some(true))
        );
        assert_eq!(
            (&described["ImageName"], &described["Metadata"]["Commit"]),
            (&"x".into(), &"c".into())
        );
    }
}

#[test]
fn a_signature_section_that_is_none_is_refused() {
    let kernel = kernel();
    let deep = [&[0x81, 0xa2][..], &[0x81; 5000]].concat();
    let huge = [&b"\x81\xa2\x73signing_certificate\x9b"[..], &[0xff; 8]].concat();
    for bad in [
        &b""[..],
        b"\x80",
        b"\x81\xa0",
        b"\x9f",
        &deep,
        &huge,
        &[0xff; 100],
    ] {
        let parts = Parts {
            kernel: &kernel,
            cmdline: "",
            metadata: METADATA,
            ramdisks: &[b"one"],
            signature: Some(bad),
        };
        assert_eq!(code(&parts.to_image().unwrap()), "signature");
    }
    let padded = vec![b' '; (1 << 20) + 1];
    let parts = Parts {
        kernel: &kernel,
        cmdline: "",
        metadata: &padded,
        ramdisks: &[b"one"],
        signature: None,
    };
    assert_eq!(parts.to_image().unwrap_err().code(), "section");
    let long = vec![0; 32 * 1024 + 1];
    let parts = Parts {
        kernel: &kernel,
        cmdline: "",
        metadata: METADATA,
        ramdisks: &[b"one"],
        signature: Some(&long),
    };
    assert_eq!(parts.to_image().unwrap_err().code(), "section");
}

#[test]
fn a_kernel_or_command_line_that_cannot_boot_makes_no_image() {
    let build = |kernel: &[u8], cmdline: &str| {
        Parts {
            kernel,
            cmdline,
            metadata: METADATA,
            ramdisks: &[b"one"],
            signature: None,
        }
        .to_image()
        .map(|_| ())
    };
    assert!(build(&kernel(), "").is_ok());
    let mut old = kernel();
    old[0x206] = 0x0b;
    let mut low = kernel();
    low[0x211] = 0;
    let mut narrow = kernel();
    narrow[0x236] = 0;
    for bad in [&b""[..], &[0; 4096], b"\x7fELF", &old, &low, &narrow] {
        assert!(matches!(build(bad, ""), Err(Error::NotABzImage(_))));
    }
    for bad in ["a\0b", "a\nb", "\u{e9}", &"x".repeat(1537)] {
        assert!(matches!(build(&kernel(), bad), Err(Error::CommandLine(_))));
    }
}

#[test]
fn a_ramdisk_is_the_same_on_every_day_and_holds_what_was_put_in() {
    let make = || ramdisk(&[Entry::Directory("dev"), Entry::Program("init", b"program")]).unwrap();
    let bytes = make();
    assert_eq!(bytes, make());
    // RFC 1952: no time, no name, no operating system.
    assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
    let mut archive = Vec::new();
    GzDecoder::new(bytes.as_slice())
        .read_to_end(&mut archive)
        .unwrap();
    let mut reader = cpio::NewcReader::new(archive.as_slice()).unwrap();
    let mut seen = Vec::new();
    while !reader.entry().is_trailer() {
        let entry = reader.entry();
        assert_eq!(
            (entry.uid(), entry.gid(), entry.mtime(), entry.nlink()),
            (0, 0, 0, 1)
        );
        seen.push((entry.name().to_owned(), entry.mode(), entry.file_size()));
        reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
    }
    assert_eq!(
        seen,
        [("dev".into(), 0o040_755, 0), ("init".into(), 0o100_555, 7)]
    );
}

#[test]
fn a_file_that_is_no_image_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = |magic: &[u8], length| {
        let path = folder.path().join("sparse");
        std::fs::write(&path, magic).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        read_file(&path).unwrap_err()
    };
    assert!(matches!(sparse(b".eif", 5 << 30), Error::TooLarge));
    assert!(matches!(sparse(b"MZ..", 3 << 30), Error::NotAnImage));
    assert!(matches!(read_file(folder.path()), Err(Error::Io { .. })));
    assert!(matches!(
        read_file("/dev/zero".as_ref()),
        Err(Error::Io { .. })
    ));
    assert!(matches!(
        read_file("/nonexistent".as_ref()),
        Err(Error::Io { .. })
    ));
}
