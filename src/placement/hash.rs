//! Key → 64 bits → partition.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::base::PartitionId;

/// The seed of every key's hash: "jumpgate" in ASCII. Another seed would put keys elsewhere, so it stays for ever.
const KEY_SEED: u64 = 0x6a75_6d70_6761_7465;

/// The hash of a key: XXH3, 64 bits (Collet, 2019), with a fixed seed.
///
/// It isn't secret and doesn't resist someone who chooses keys to meet in one partition; such a client only crowds its
/// own partition. Tables inside a process that must resist use hashers of their own.
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, KEY_SEED)
}

/// The partition, of `partitions`, that holds `key`.
///
/// Multiply and shift (Lemire, "Fast Random Integer Generation in an Interval", 2019): the hash, read as a fraction of
/// 2⁶⁴, times the number of partitions. It takes the high bits, which leaves the low ones to the tables inside a
/// partition, and costs one multiplication where modulo costs a division. Partitions differ in their share by less than
/// 2⁻⁵⁰ of it.
///
/// # Panics
/// Where `partitions` is 0: no cluster is founded with none.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u16) -> PartitionId {
    assert!(partitions > 0, "a key was looked up among 0 partitions");
    PartitionId(((u128::from(hash_key(key)) * u128::from(partitions)) >> 64) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the reference implementation in C, with our seed. A change of any of them would send every key of a running cluster elsewhere.
    #[test]
    fn the_hash_of_a_key_never_changes() {
        let table: [(&[u8], u64, u16); 5] = [
            (b"", 0x75c7_9cae_bf96_cc2d, 1884),
            (b"a", 0xfcb0_e2eb_407a_9163, 4043),
            (b"user:42", 0x1e24_4fa9_5388_543d, 482),
            ("schlüssel/ß".as_bytes(), 0xf300_3c5c_6d71_d529, 3888),
            (&[0xff; 1024], 0x72a2_19b9_692b_c596, 1834),
        ];
        for (key, hash, partition) in table {
            assert_eq!(hash_key(key), hash, "the hash of {key:?}");
            assert_eq!(partition_of(key, 4096), PartitionId(partition), "the partition of {key:?}");
        }
    }

    #[test]
    fn the_hash_is_xxh3() {
        // The reference implementation's value for an empty input and seed 0.
        assert_eq!(xxh3_64_with_seed(b"", 0), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn keys_spread_evenly_over_partitions() {
        let partitions = 64;
        let mut keys = vec![0_u32; usize::from(partitions)];
        for number in 0..64_000 {
            keys[partition_of(format!("key-{number}").as_bytes(), partitions).index()] += 1;
        }
        // 1000 a partition on average, with a standard deviation of 31: five of those is never met by chance.
        assert!(keys.iter().all(|count| (845..=1155).contains(count)), "{keys:?}");
    }

    #[test]
    fn every_partition_count_gives_a_partition_below_it() {
        for partitions in [1, 2, 3, 1000, 4096, u16::MAX] {
            for number in 0_u32..1000 {
                assert!(partition_of(&number.to_le_bytes(), partitions).0 < partitions);
            }
        }
        assert_eq!(partition_of(b"whatever", 1), PartitionId(0));
    }
}
