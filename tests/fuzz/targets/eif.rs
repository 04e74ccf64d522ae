#![no_main]

//! Bytes as an image, as they are and with their checksum put right. What is read is built again as
//! the same bytes.

use eif::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Some((head, sections)) = data.split_at_checked(548) {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..544]);
        crc.update(sections);
        check(&[&head[..544], &crc.finalize().to_be_bytes(), sections].concat());
    }
});

fn check(file: &[u8]) {
    let _ = eif::describe(file);
    if let Ok(image) = Image::parse(file)
        && let Ok(parts) = image.parts()
        && let Ok(built) = parts.to_image()
    {
        let again = Image::parse(&built).expect("it was built");
        assert_eq!(
            (again.kernel, again.cmdline, again.ramdisks),
            (image.kernel, image.cmdline, image.ramdisks)
        );
    }
}
