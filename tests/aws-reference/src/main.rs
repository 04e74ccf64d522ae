//! `aws-reference describe FILE` prints what AWS's reader finds; `aws-reference build OUT KERNEL
//! CMDLINE METADATA RAMDISK...` builds with AWS's builder (METADATA is a JSON file).

use std::fs::File;
use std::path::Path;

use aws_nitro_enclaves_image_format::defs::EifIdentityInfo;
use aws_nitro_enclaves_image_format::utils::EifBuilder;
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use sha2::{Digest, Sha384};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["describe", file] => describe(file),
        ["build", out, kernel, cmdline, metadata, ramdisks @ ..] => build(out, kernel, cmdline, metadata, ramdisks),
        _ => panic!("describe FILE, or build OUT KERNEL CMDLINE METADATA RAMDISK..."),
    }
}

fn describe(file: &str) {
    let mut reader = EifReader::from_eif(file.to_owned()).expect("AWS's reader reads it");
    let measurements = reader.get_measurements().expect("measurements");
    let signed = reader.signature_section.is_some();
    let certificate = signed.then(|| reader.get_certificate_info(measurements.clone()).expect("a certificate"));
    let told = serde_json::json!({
        "Measurements": measurements,
        "CheckCRC": reader.check_crc(),
        "SignatureCheck": reader.sign_check,
        "SigningCertificate": certificate,
        "ImageName": reader.get_metadata().map(|metadata| metadata.img_name),
    });
    println!("{told}");
}

fn build(out: &str, kernel: &str, cmdline: &str, metadata: &str, ramdisks: &[&str]) {
    let metadata: EifIdentityInfo = serde_json::from_reader(File::open(metadata).expect("metadata")).expect("metadata");
    let mut builder = EifBuilder::new(Path::new(kernel), cmdline.to_owned(), None, Sha384::new(), 0, metadata);
    for ramdisk in ramdisks {
        builder.add_ramdisk(Path::new(ramdisk));
    }
    builder.write_to(&mut File::options().create(true).truncate(true).read(true).write(true).open(out).expect("a file"));
}
