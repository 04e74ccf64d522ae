//! The Merkle tree of RFC 9162 section 2.1, over SHA-256, for the few events of a batch.

use sha2::{Digest as _, Sha256};

use identity::Digest;

type Hash = Digest<32>;

/// Hash of a leaf (RFC 9162 section 2.1.1).
pub fn leaf(entry: &[u8]) -> Hash {
    Digest(
        Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
            .into(),
    )
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Digest(
        Sha256::new()
            .chain_update([1])
            .chain_update(left.0)
            .chain_update(right.0)
            .finalize()
            .into(),
    )
}

/// The largest power of two below `n`, for `n` of 2 and more.
fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

/// Merkle tree hash of the hashes of leaves (RFC 9162 section 2.1.1).
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Digest(Sha256::digest([]).into()),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// Inclusion proof of the leaf at `index`, which there is (section 2.1.3.1).
pub(crate) fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut steps, other) = if index < at {
        (path(index, left), right)
    } else {
        (path(index - at, right), left)
    };
    steps.push(root(other));
    steps
}

/// The root that an inclusion proof leads to (section 2.1.3.2); `None` if it has not the length
/// that belongs to the place.
pub(crate) fn root_of(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = leaf;
    for other in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(other, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, other);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// The entries and roots with which Certificate Transparency implementations test themselves
    /// (RFC 6962 trees of 1 to 8).
    const ENTRIES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_are_those_of_other_implementations_and_every_path_leads_there() {
        let leaves: Vec<Hash> = ENTRIES
            .iter()
            .map(|entry| leaf(&HEXLOWER.decode(entry.as_bytes()).unwrap()))
            .collect();
        for size in 1..=leaves.len() {
            let leaves = &leaves[..size];
            assert_eq!(root(leaves).to_string(), ROOTS[size - 1]);
            for (index, leaf) in leaves.iter().enumerate() {
                let path = path(index, leaves);
                let (at, of) = (index as u64, size as u64);
                assert_eq!(root_of(*leaf, at, of, &path), Some(root(leaves)));
                let longer = [&path[..], &[*leaf]].concat();
                assert_eq!(root_of(*leaf, at, of, &longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(root_of(*leaf, at, of, shorter), None);
                }
                assert_ne!(
                    root_of(root(&[*leaf, *leaf]), at, of, &path),
                    Some(root(leaves))
                );
                for other in 0..of {
                    assert!(
                        other == at || root_of(*leaf, other, of, &path) != Some(root(leaves)),
                        "{size} {index} {other}"
                    );
                }
            }
            assert_eq!(root_of(leaves[0], size as u64, size as u64, &[]), None);
        }
        assert_eq!(
            root(&[]).to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
