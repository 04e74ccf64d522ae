//! What a verifier allocates for one document: at most four times its size and 64 KiB, all
//! allocations added up.

use attestation::{Evidence, MockRoot, verify_mock};
use identity::UnixSeconds;
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Bytes allocated by `work`, freed or not.
fn allocated(work: impl FnOnce()) -> u64 {
    let before = dhat::HeapStats::get().total_bytes;
    work();
    dhat::HeapStats::get().total_bytes - before
}

#[test]
fn no_input_makes_the_verifier_allocate_more_than_four_times_its_size_and_64_kib() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/documents.json")).unwrap();
    let root = MockRoot::from_pem(vectors["root_pem"].as_str().unwrap().as_bytes()).unwrap();
    let documents = vectors["documents"].as_array().unwrap();
    let mut inputs: Vec<(String, Vec<u8>)> = documents
        .iter()
        .map(|v| {
            (
                v["name"].to_string(),
                data_encoding::HEXLOWER
                    .decode(v["document"].as_str().unwrap().as_bytes())
                    .unwrap(),
            )
        })
        .collect();
    for size in [0, 1, 100, 4096, 16_640, 16_641, 65_536, 1 << 20] {
        // Heads that promise much: arrays, maps, strings of 2^64-1, and nested ones.
        for byte in [
            0x00, 0x5b, 0x7b, 0x81, 0x9b, 0x9f, 0xa1, 0xbb, 0xbf, 0xd2, 0xff,
        ] {
            inputs.push((format!("{size} times {byte:#04x}"), vec![byte; size]));
        }
    }
    let at = UnixSeconds(1_767_225_600);
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut most = 0;
    for (name, input) in &inputs {
        let limit = 4 * input.len() as u64 + 64 * 1024;
        let document = allocated(|| drop(verify_mock(input, &root, at)));
        assert!(
            document <= limit,
            "{name}: {document} bytes for {}",
            input.len()
        );
        most = most.max(document);
        let evidence = allocated(|| drop(Evidence::parse(input)));
        assert!(
            evidence <= limit,
            "{name} as evidence: {evidence} bytes for {}",
            input.len()
        );
    }
    assert!(most > 10_000, "the count counts: {most}");
}
