#![no_main]
//! A sealed state, its genesis record, certificates and orders: what is read is written back as the
//! same bytes.

use fuzzing::KEY;
use libfuzzer_sys::fuzz_target;
use state::{Certificate, GenesisRecord, Order, Sealed};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((sealed, header)) = Sealed::parse(bytes) {
        assert_eq!(sealed.to_vec(), bytes);
        assert_eq!(sealed.header_bytes(), header.to_vec());
        let _ = sealed.verify(&header, KEY.public());
    }
    if let Ok(record) = GenesisRecord::parse(bytes) {
        assert_eq!(record.to_vec(), bytes);
    }
    let _ = Certificate::unverified(bytes);
    let _ = Certificate::verify(bytes, KEY.public());
    let _ = Order::unverified(bytes);
});
