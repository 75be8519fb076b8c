//! The machine: time, memory, and whether anybody else is on the core.

use core::arch::{asm, x86_64::*};

/// How fast the two clocks are, in Hz.
pub struct Clocks {
    pub tsc: f64,
    pub core: f64,
}

/// Stays on one core.
pub fn pin(core: usize) {
    // SAFETY: the set is a plain value of the kernel's type, zero when empty.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    assert_eq!(result, 0, "core {core} cannot be had");
}

/// The time stamp counter, with nothing before it still to come and nothing after it begun.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 has these instructions.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// The counter against the wall clock, and the core against a chain of additions that take a cycle each.
pub fn clocks() -> Clocks {
    let (start, from) = (std::time::Instant::now(), tsc());
    while start.elapsed().as_millis() < 60 {}
    let tsc_hz = (tsc() - from) as f64 / start.elapsed().as_secs_f64();
    let chain = || {
        let loops = 200_000u64;
        let from = tsc();
        // SAFETY: registers only.
        unsafe {
            asm!(
                "2:",
                "add {x}, {k}", "add {x}, {k}", "add {x}, {k}", "add {x}, {k}",
                "add {x}, {k}", "add {x}, {k}", "add {x}, {k}", "add {x}, {k}",
                "add {x}, {k}", "add {x}, {k}", "add {x}, {k}", "add {x}, {k}",
                "add {x}, {k}", "add {x}, {k}", "add {x}, {k}", "add {x}, {k}",
                "dec {n}", "jnz 2b",
                x = inout(reg) 0u64 => _, k = in(reg) 3u64, n = inout(reg) loops => _,
            );
        }
        (loops * 16) as f64 / ((tsc() - from) as f64 / tsc_hz)
    };
    Clocks { tsc: tsc_hz, core: (0..20).map(|_| chain()).fold(0.0, f64::max) }
}

/// Independent additions a tick of the counter: fewer when the core runs slower or is shared.
#[inline(never)]
pub fn probe() -> f64 {
    let loops = 20_000u64;
    let from = tsc();
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1", "add {e}, 1", "add {f}, 1",
            "add {a}, 3", "add {b}, 3", "add {c}, 3", "add {d}, 3", "add {e}, 3", "add {f}, 3",
            "add {a}, 5", "add {b}, 5", "add {c}, 5", "add {d}, 5", "add {e}, 5", "add {f}, 5",
            "add {a}, 7", "add {b}, 7", "add {c}, 7", "add {d}, 7", "add {e}, 7", "add {f}, 7",
            "dec {n}", "jnz 2b",
            a = inout(reg) 0u64 => _, b = inout(reg) 0u64 => _, c = inout(reg) 0u64 => _,
            d = inout(reg) 0u64 => _, e = inout(reg) 0u64 => _, f = inout(reg) 0u64 => _,
            n = inout(reg) loops => _,
        );
    }
    (loops * 26) as f64 / (tsc() - from) as f64
}

const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory on huge pages, all of it present, for as long as the process lives.
pub fn memory(bytes: usize) -> *mut u8 {
    let bytes = bytes.next_multiple_of(HUGE_PAGE);
    // SAFETY: a fresh anonymous mapping, one page longer than needed so that it can be aligned.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let start = libc::mmap(std::ptr::null_mut(), bytes + HUGE_PAGE, protection, flags, -1, 0);
        assert!(start != libc::MAP_FAILED, "no memory: {bytes} bytes");
        let start = (start as usize).next_multiple_of(HUGE_PAGE) as *mut u8;
        assert_eq!(libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE), 0);
        for page in (0..bytes).step_by(4096) {
            *start.add(page) = 0;
        }
        start
    }
}

/// Numbers that look random, from a seed.
pub struct Random(pub u64);

impl Random {
    #[inline(always)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    }

    /// Below `n`.
    #[inline(always)]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
