//! Card numbers: issuer ranges, lengths, Luhn (ISO/IEC 7812-1).

/// Of which range a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// A range of few numbers: Visa, Mastercard, American Express, Diners Club, Discover, JCB, UnionPay.
    Narrow,
    /// Maestro, or a Visa number of 13 digits: so many numbers are, that a bare one proves nothing.
    Wide,
}

/// The range of an issuer who has numbers of this length; `digits` are ASCII.
pub(crate) fn range(digits: &[u8]) -> Option<Range> {
    let first = |count: usize| {
        digits[..count]
            .iter()
            .fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
    };
    let length = digits.len();
    if !(12..=19).contains(&length) {
        return None;
    }
    let narrow = match first(1) {
        4 => matches!(length, 16 | 19),
        2 => length == 16 && (2221..=2720).contains(&first(4)),
        5 => length == 16 && (51..=55).contains(&first(2)),
        3 => match first(2) {
            34 | 37 => length == 15,
            36 | 38 | 39 => (14..=19).contains(&length),
            30 => (300..=305).contains(&first(3)) && (14..=19).contains(&length),
            35 => (3528..=3589).contains(&first(4)) && length >= 16,
            _ => false,
        },
        6 => {
            length >= 16
                && (first(4) == 6011
                    || matches!(first(2), 62 | 65)
                    || (644..=649).contains(&first(3)))
        }
        _ => false,
    };
    let wide = || matches!(first(2), 50 | 56..=69) || (first(1) == 4 && length == 13);
    if narrow {
        Some(Range::Narrow)
    } else {
        wide().then_some(Range::Wide)
    }
}

/// Whether the last digit is the check digit of the others.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(digit - b'0');
            match (at % 2, digit) {
                (1, 5..) => digit * 2 - 9,
                (1, _) => digit * 2,
                _ => digit,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published test numbers of payment providers, of each brand and length.
    #[test]
    fn test_numbers_of_every_brand_are_cards() {
        for number in [
            "4532015112830366",
            "4111111111111111",
            "5555555555554444",
            "2223003122003222",
            "2720999999999996",
            "378282246310005",
            "341111111111111",
            "30569309025904",
            "36227206271667",
            "38520000023237",
            "6011111111111117",
            "6445644564456445",
            "6500000000000002",
            "3530111333300000",
            "6200000000000005",
            "6205500000000000004",
        ] {
            assert_eq!(range(number.as_bytes()), Some(Range::Narrow), "{number}");
            assert!(luhn(number.as_bytes()), "{number}");
        }
        for number in [
            "6759649826438453",
            "4222222222222",
            "501800000009",
            "6304000000000000",
        ] {
            assert_eq!(range(number.as_bytes()), Some(Range::Wide), "{number}");
            assert!(luhn(number.as_bytes()), "{number}");
        }
    }

    #[test]
    fn what_is_close_is_none() {
        for number in [
            "1234567890123456",     // no issuer
            "2220999999999999",     // below Mastercard's second range
            "2721000000000004",     // above it
            "411111111111111",      // 15 digits of Visa
            "40000000000",          // too short
            "45320151128303660000", // too long
            "1700000000000000000",  // nanoseconds of 2023
        ] {
            assert_eq!(range(number.as_bytes()), None, "{number}");
        }
        for number in ["1234567890123456", "4532015112830367", "4532123456789010"] {
            assert!(!luhn(number.as_bytes()), "{number}");
        }
    }
}
