//! Engines against slow twins, and their hashes against chance. That all of them read headers as the parser does
//! is tested across packages, in `tests/wire/scan.rs`.

use super::*;
use proptest::prelude::*;

fn engines(seed: u64) -> impl Iterator<Item = Engine> {
    Isa::ALL.into_iter().filter_map(move |isa| Engine::new(isa, seed))
}

#[test]
fn the_best_engine_is_the_last_available() {
    let best = Isa::ALL.into_iter().rfind(|isa| isa.is_available());
    assert_eq!(Some(Engine::detect(1).isa()), best);
    assert!(engines(1).all(|engine| engine.isa().is_available()));
    assert!(Isa::Portable.is_available());
}

mod slices {
    use super::*;

    /// A plain UDP packet that only its destination port tells from others.
    fn plain(n: u16) -> Header {
        let mut h = [0; size_of::<Header>()];
        h[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 50]);
        h[22..24].copy_from_slice(&[64, 17]);
        h[36..38].copy_from_slice(&n.to_be_bytes());
        h[38..40].copy_from_slice(&[0, 30]);
        let sum = crate::wire::checksum::of(&h[14..34]).to_be_bytes();
        h[24..26].copy_from_slice(&sum);
        h
    }

    proptest! {
        #[test]
        fn of_any_length_are_read_as_far_as_the_shortest(
            (headers, lens, origins, keys, hashes) in (0..90usize, 0..90usize, 0..90usize, 0..90usize, 0..90usize),
            exact in 0..=MOST,
            is_exact: bool,
        ) {
            let of = |n: usize| if is_exact { n.max(exact) } else { n };
            let all: Vec<_> = (0..of(headers)).map(|n| plain(n as u16)).collect();
            let scan = Scan {
                headers: &all.iter().collect::<Vec<_>>(),
                lens: &vec![64; of(lens)],
                origins: &vec![0x1234_5600; of(origins)],
            };
            let n = [headers, lens, origins, keys, hashes].map(of).into_iter().min().unwrap().min(MOST);
            for engine in engines(7) {
                let (mut k, mut h) = (vec![[1; 2]; of(keys)], vec![1; of(hashes)]);
                let answer = engine.scan_v4(&scan, &mut k, &mut h);
                prop_assert_eq!(u128::from(answer), (1 << n) - 1, "{:?}", engine.isa());
                for i in 0..n {
                    prop_assert_eq!(u16::from_be((k[i][1] >> 48) as u16), i as u16);
                    prop_assert_eq!(h[i], engine.hash_v4(&k[i]));
                }
                prop_assert!(k[n..].iter().all(|key| *key == [1; 2]), "keys behind the last are left alone");
                prop_assert!(h[n..].iter().all(|hash| *hash == 1), "so are hashes");
                let mut k = vec![[1; 5]; of(keys)];
                prop_assert_eq!(engine.scan_v6(&scan, &mut k, &mut h), 0);
                prop_assert!(k[n..].iter().all(|key| *key == [1; 5]));
            }
        }

        #[test]
        fn of_tags_too(lines in 0..3usize, at in 0..40usize, tags in 0..40usize, masks in 0..40usize) {
            let lines: Vec<_> = (0..lines).map(|_| Line(Default::default())).collect();
            let at: Vec<u32> = (0..at as u32).map(|n| if n % 5 == 4 { u32::MAX } else { n % 5 }).collect();
            let tags = vec![0; tags];
            for engine in engines(7) {
                let mut found = vec![5; masks];
                engine.match_tags(&lines, &at, &tags, &mut found);
                for (n, mask) in found.iter().enumerate() {
                    let expected = match at.get(n) {
                        Some(at) if n < tags.len() => if (*at as usize) < lines.len() { 0x7fff_ffff } else { 0 },
                        _ => 5,
                    };
                    prop_assert_eq!(*mask, expected);
                }
            }
        }
    }
}

mod tags {
    use super::*;

    fn line(tags: [u16; 32]) -> Line {
        let (words, _) = tags.as_chunks::<4>();
        let word = |n: usize| (0..4).fold(0, |word, lane| word | u64::from(words[n][lane]) << (16 * lane));
        Line(std::array::from_fn(|n| word(n).into()))
    }

    fn check(all: &[[u16; 32]], at: &[u32], tags: &[u16]) {
        let lines: Vec<_> = all.iter().map(|tags| line(*tags)).collect();
        let naive = |at: u32, tag: u16| {
            let Some(all) = all.get(at as usize) else { return 0 };
            (0..LANES).fold(0, |mask, lane| mask | u32::from(all[lane] == tag) << lane)
        };
        let expected: Vec<_> = at.iter().zip(tags).map(|(at, tag)| naive(*at, *tag)).collect();
        for engine in engines(7) {
            let mut masks = vec![0; expected.len()];
            engine.match_tags(&lines, at, tags, &mut masks);
            assert_eq!(masks, expected, "{:?}", engine.isa());
        }
        for ((at, tag), expected) in at.iter().zip(tags).zip(&expected) {
            if let Some(line) = lines.get(*at as usize) {
                assert_eq!(lanes(line, *tag), *expected);
            }
        }
    }

    proptest! {
        #[test]
        fn are_found_where_a_loop_finds_them(
            // Neighbours of zero and of the sign show a carry that crosses a lane.
            all in prop::collection::vec(
                any::<([u16; 32], [u8; 32])>().prop_map(|(random, kind)| {
                    let few = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x0100];
                    std::array::from_fn(|n| few.get(usize::from(kind[n] % 10)).copied().unwrap_or(random[n]))
                }),
                1..9,
            ),
            at in prop::collection::vec(0..10u32, 0..=MOST),
        ) {
            for tag in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x0100, all[0][3], all[0][31]] {
                check(&all, &at, &vec![tag; at.len()]);
            }
            let tags: Vec<u16> = at.iter().enumerate().map(|(n, _)| all[n % all.len()][n % 32]).collect();
            check(&all, &at, &tags);
        }
    }

    #[test]
    fn every_bit_of_every_lane_counts() {
        for tag in [0, 0x8000, 0xffff, 0x1234] {
            let all: Vec<[u16; 32]> = (0..32 * 16)
                .map(|n| {
                    let mut tags = [tag; 32];
                    tags[n / 16] ^= 1 << (n % 16);
                    tags
                })
                .collect();
            let at: Vec<u32> = (0..all.len() as u32).collect();
            check(&all, &at, &vec![tag; at.len()]);
        }
    }
}

mod hashes {
    use super::*;

    /// An AES round as FIPS 197 describes it, least significant byte first.
    fn aes_round(state: u128, key: u128) -> u128 {
        let state = state.to_le_bytes();
        // SubBytes and ShiftRows: column by column, row `n` comes from `n` columns further on.
        let moved: [u8; 16] = std::array::from_fn(|n| sub_byte(state[(n + 4 * (n % 4)) % 16]));
        let mixed: [u8; 16] = std::array::from_fn(|n| {
            let at = |row: usize| moved[n / 4 * 4 + (n + row) % 4];
            times(at(0), 2) ^ times(at(1), 3) ^ at(2) ^ at(3)
        });
        u128::from_le_bytes(mixed) ^ key
    }

    fn sub_byte(x: u8) -> u8 {
        // The inverse is the 254th power; zero stays zero.
        let inverse = (0..253).fold(x, |power, _| times(power, x));
        let b = |n| inverse.rotate_left(n);
        b(0) ^ b(1) ^ b(2) ^ b(3) ^ b(4) ^ 0x63
    }

    /// Multiplies in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
    fn times(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b != 0 {
            product ^= if b & 1 == 1 { a } else { 0 };
            a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1b };
            b >>= 1;
        }
        product
    }

    #[test]
    fn the_round_is_that_of_the_standard() {
        // FIPS 197, appendix B, round 1.
        let state = 0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808_u128.swap_bytes();
        let key = 0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605_u128.swap_bytes();
        assert_eq!(aes_round(state, key).swap_bytes(), 0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049);
    }

    fn block(low: u64, high: u64) -> u128 {
        u128::from(high) << 64 | u128::from(low)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn are_rounds_of_aes(seed: u64, v4: KeyV4, v6: KeyV6) {
            for engine in engines(seed).filter(|engine| engine.isa() != Isa::Portable) {
                let s = [block(engine.seed[0], engine.seed[1]), block(engine.seed[2], engine.seed[3])];
                let x = block(v4[0], v4[1]) ^ s[0];
                let x = [s[1], s[0], s[1]].into_iter().fold(x, aes_round);
                prop_assert_eq!(engine.hash_v4(&v4), x as u64);

                let (destination, rest) = (block(v6[2], v6[3]), block(v6[4], 0));
                let x = block(v6[0], v6[1]) ^ s[0];
                let x = [s[1], destination, s[0], rest, s[1], s[0], s[1]].into_iter().fold(x, aes_round);
                prop_assert_eq!(engine.hash_v6(&v6), x as u64);
            }
        }

        #[test]
        fn depend_on_the_seed(seed: u64, v4: KeyV4, v6: KeyV6) {
            for (a, b) in engines(seed).zip(engines(seed ^ 1)) {
                prop_assert_ne!(a.hash_v4(&v4), b.hash_v4(&v4));
                prop_assert_ne!(a.hash_v6(&v6), b.hash_v6(&v6));
            }
        }
    }

    /// Tuples of one kind.
    #[derive(Clone, Copy, Debug)]
    enum Load {
        /// Both directions of connections: clients of one /16 to few services, source NAT with ports in order.
        Connections,
        /// One pair of hosts, all the ports.
        Ports,
        /// Two ranges of hosts that talk to each other on one port.
        Hosts,
    }

    const TUPLES: u32 = 1 << 20;

    impl Load {
        /// Source, destination, ports, segment.
        fn tuple(self, i: u32) -> (u32, u32, u16, u16, u32) {
            match self {
                Self::Connections => {
                    let (n, is_reverse) = (i / 2, i % 2 == 1);
                    let service = (n ^ 0x9e37).wrapping_mul(0x85eb_ca6b) >> 12;
                    if is_reverse {
                        let (source, port) = (0xc000_0200 + n / 60_000, (1024 + n % 60_000) as u16);
                        (0x0ac8_0000 | service & 0xfff, source, 8080, port, 0xfff)
                    } else {
                        let (source, port) = (0x0a00_0000 | n & 0xffff, (1024 + (n >> 16) * 7) as u16);
                        (source, 0x0a60_0000 | service & 0x3ff, port, 80, n >> 8 & 0xff)
                    }
                }
                Self::Ports => (0x0a00_0001, 0x0a00_0002, i as u16, 8000 + (i >> 16) as u16, 1),
                Self::Hosts => (0x0a00_0000 | i & 0x3ff, 0x0a01_0000 | i >> 10, 40_000, 443, 1),
            }
        }

        fn key_v4(self, i: u32) -> KeyV4 {
            let (src, dst, sport, dport, segment) = self.tuple(i);
            let low = u64::from(segment) << 8 | 17;
            [low | u64::from(src.swap_bytes()) << 32, u64::from(dst.swap_bytes()) | ports(sport, dport)]
        }

        fn key_v6(self, i: u32) -> KeyV6 {
            let (src, dst, sport, dport, segment) = self.tuple(i);
            let host = |n: u32| u64::from(n.swap_bytes()) << 32;
            let low = u64::from(segment) << 8 | 17;
            [0xfd, host(src), 0xfd, host(dst), low | ports(sport, dport)]
        }
    }

    fn ports(sport: u16, dport: u16) -> u64 {
        u64::from(sport.swap_bytes()) << 32 | u64::from(dport.swap_bytes()) << 48
    }

    /// A count of something, the mean it would have by chance, and its variance.
    fn is_by_chance(what: &str, count: f64, mean: f64, variance: f64) {
        let off = (count - mean) / variance.sqrt();
        assert!(off.abs() < 5.0, "{what}: {count:.0} where {mean:.0} are expected: off by {off:.1} sigma");
    }

    /// How evenly hashes fall on buckets of 31 entries, at a load of 85 %.
    fn fill_evenly(what: &str, hashes: &[u64], of: impl Fn(u64) -> u64) {
        let load = 0.85 * LANES as f64;
        let buckets = hashes.len() as f64 / load;
        let mut counts = vec![0_u32; buckets as usize];
        let mut tagged = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let bucket = ((u128::from(of(*hash)) * counts.len() as u128) >> 64) as u64;
            counts[bucket as usize] += 1;
            tagged.push(bucket << 16 | hash & 0xffff);
        }
        // How full buckets get is all but a Poisson distribution.
        let (mut p, mut mean, mut square) = ((-load).exp(), 0.0, 0.0);
        for n in 1..200 {
            p *= load / f64::from(n);
            let over = f64::from(n).max(LANES as f64) - LANES as f64;
            mean += p * over;
            square += p * over * over;
        }
        let over: u32 = counts.iter().map(|n| n.saturating_sub(LANES as u32)).sum();
        let variance = buckets * (square - mean * mean);
        is_by_chance(&format!("{what}: overflow"), f64::from(over), buckets * mean, variance);
        let chi: f64 = counts.iter().map(|n| (f64::from(*n) - load).powi(2) / load).sum();
        is_by_chance(&format!("{what}: chi square"), chi, buckets, 2.0 * buckets);
        tagged.sort_unstable();
        let twins = tagged.windows(2).filter(|two| two[0] == two[1]).count();
        let mean = buckets * load * load / 2.0 / 65_536.0;
        is_by_chance(&format!("{what}: equal tags"), twins as f64, mean, mean);
    }

    /// That 16 bits of something take each value as often as any other.
    fn are_even(what: &str, values: impl Iterator<Item = u16>) {
        let mut counts = vec![0_u32; 1 << 16];
        values.for_each(|value| counts[usize::from(value)] += 1);
        let cells = counts.len() as f64;
        let mean = f64::from(counts.iter().sum::<u32>()) / cells;
        let chi: f64 = counts.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
        is_by_chance(what, chi, cells, 2.0 * cells);
    }

    fn are_as_good_as_random(load: Load) {
        let seed = 0x5eed;
        println!("seed {seed}");
        // AVX2 and AVX-512 hash alike.
        for engine in engines(seed).filter(|engine| engine.isa() != Isa::Avx512) {
            let v4: Vec<u64> = (0..TUPLES).map(|i| engine.hash_v4(&load.key_v4(i))).collect();
            let v6: Vec<u64> = (0..TUPLES).map(|i| engine.hash_v6(&load.key_v6(i))).collect();
            for (family, hashes) in [("IPv4", v4), ("IPv6", v6)] {
                let what = format!("{}, {load:?}, {family}", engine.isa().name());
                fill_evenly(&format!("{what}: first bucket"), &hashes, |h| h);
                fill_evenly(&format!("{what}: second bucket"), &hashes, |h| h.rotate_left(24));
                // Whether bucket, second bucket and tag have to do with each other.
                let pairs = |a: u32, b: u32| {
                    hashes.iter().map(move |h| (h >> a) as u16 & 0xff00 | (h >> b) as u16 & 0xff)
                };
                are_even(&format!("{what}: both buckets"), pairs(48, 24));
                are_even(&format!("{what}: first bucket and tag"), pairs(48, 0));
                are_even(&format!("{what}: second bucket and tag"), pairs(16, 0));
                are_even(&format!("{what}: tags"), pairs(0, 0));
            }
        }
    }

    #[test]
    fn of_connections_are_as_good_as_random() {
        are_as_good_as_random(Load::Connections);
    }

    #[test]
    fn of_ports_are_as_good_as_random() {
        are_as_good_as_random(Load::Ports);
    }

    #[test]
    fn of_hosts_are_as_good_as_random() {
        are_as_good_as_random(Load::Hosts);
    }
}
