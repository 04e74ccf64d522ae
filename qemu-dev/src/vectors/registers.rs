//! The map of registers.

use super::{Maker, good_fields, longer_heads};
use crate::nsm::{bytes, encode};

impl Maker {
    fn with_registers(&mut self, what: &str, expected: &str, registers: &[(Vec<u8>, Vec<u8>)]) {
        let head = match u8::try_from(registers.len()) {
            Ok(count @ 0..24) => vec![0xa0 | count],
            Ok(count) => vec![0xb8, count],
            Err(_) => unreachable!("a handful of registers"),
        };
        let body: Vec<u8> = registers
            .iter()
            .flat_map(|(index, value)| [&index[..], value].concat())
            .collect();
        self.with_value("pcrs", what, expected, [head, body].concat());
    }

    pub(super) fn registers(&mut self) {
        let good: Vec<_> = good_fields()
            .pcrs
            .iter()
            .map(|(index, pcr)| (encode(*index), bytes(pcr.as_bytes())))
            .collect();
        let with = |more: (Vec<u8>, Vec<u8>)| [&good[..], &[more]].concat();
        let value = || bytes(&[7; 48]);
        self.with_registers("empty", "pcr_count", &[]);
        self.with_registers("three registers", "accepted", &good[..3]);
        let all: Vec<_> = (0..32_u8)
            .map(|index| (encode(index), bytes(&[index + 1; 48])))
            .collect();
        self.with_registers("all 32", "accepted", &all);
        self.with_registers(
            "33 with index 32",
            "pcr_count",
            &[&all[..], &[(encode(32), value())]].concat(),
        );
        let mut reversed = good.clone();
        reversed.reverse();
        self.with_registers("in reverse", "accepted", &reversed);
        for index in [32_u64, 33, 255, 256, 1 << 16, 1 << 32, u64::MAX] {
            self.with_registers(
                &format!("index {index}"),
                "pcr_index",
                &with((encode(index), value())),
            );
        }
        for (place, (index, again)) in good.iter().enumerate() {
            let number = place;
            self.with_registers(
                &format!("PCR{number} twice"),
                "pcr_twice",
                &with((index.clone(), again.clone())),
            );
            self.with_registers(
                &format!("PCR{number} twice, with another value"),
                "pcr_twice",
                &with((index.clone(), value())),
            );
            let sizes: &[usize] = if place < 3 {
                &[0, 32, 47, 49, 64]
            } else {
                &[47]
            };
            for size in sizes.iter().copied() {
                let mut changed = good.clone();
                changed[place].1 = bytes(&vec![7; size]);
                self.with_registers(
                    &format!("PCR{number} of {size} bytes"),
                    "pcr_size",
                    &changed,
                );
            }
        }
        for (name, index) in [
            ("negative", vec![0x20]),
            ("text", encode("17")),
            ("bytes", bytes(&[17])),
            ("null", vec![0xf6]),
        ] {
            self.with_registers(
                &format!("an index that is {name}"),
                "field_type",
                &with((index, value())),
            );
        }
        for (name, value) in [
            ("text", encode("7")),
            ("null", vec![0xf6]),
            ("an array", vec![0x80]),
            ("a number", vec![7]),
        ] {
            self.with_registers(
                &format!("a value that is {name}"),
                "field_type",
                &with((encode(17), value)),
            );
        }
        for head in longer_heads(0, 17) {
            self.with_registers(
                &format!("an index of {} bytes", head.len()),
                "payload_not_shortest",
                &with((head, value())),
            );
        }
        for head in longer_heads(2, 48) {
            let value = [&head[..], &[7; 48]].concat();
            self.with_registers(
                &format!("a value with a head of {} bytes", head.len()),
                "payload_not_shortest",
                &with((encode(17), value)),
            );
        }
        let chunks = [&[0x5f], &value()[..], &[0xff]].concat();
        self.with_registers(
            "a value in chunks",
            "payload_indefinite",
            &with((encode(17), chunks)),
        );
    }
}
