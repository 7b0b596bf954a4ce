//! The best prices of a shared book, exactly: top_of_book NAME MARKET
//!
//! rustc --edition 2021 -O top_of_book.rs
//! Prints the update id, the best bid and the best ask; exit status 1 with the reason if they cannot be read.
//! Linux, without a crate. docs/shared-memory.md has the layout and the steps of a read.

use std::ffi::c_void;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

const BOOK_MAGIC: u64 = u64::from_le_bytes(*b"LDCBOOK\0");
const FEEDER_MAGIC: u64 = u64::from_le_bytes(*b"LDCFEED\0");
const VERSION: u32 = 1;
const HEAD: usize = 256;
const COPY: usize = 128;
const LATE_NS: i64 = 15_000_000;
const FUTURE_NS: i64 = 30_000_000;
const ATTEMPTS: usize = 1000;

#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
    pid: i32,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn mmap(at: *mut c_void, size: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> *mut c_void;
    fn munmap(at: *mut c_void, size: usize) -> i32;
    fn fcntl(fd: i32, command: i32, ...) -> i32;
    fn clock_gettime(clock: i32, now: *mut Timespec) -> i32;
    fn getuid() -> u32;
}

/// A region of another process, as words that it may change at any time.
struct Region {
    words: *const AtomicU64,
    size: usize,
    levels: usize,
    copies: u64,
    feeder: File,
}

/// One copy of the book: its head, and at most one level of each side.
struct View {
    head: [u64; COPY / 8],
    bid: Option<(i64, i64)>,
    ask: Option<(i64, i64)>,
}

impl Drop for Region {
    fn drop(&mut self) {
        unsafe { munmap(self.words as *mut c_void, self.size) };
    }
}

fn u32_at(words: &[u64], offset: usize) -> u32 {
    (words[offset / 8] >> (8 * (offset % 8))) as u32
}

fn is_locked(file: &File) -> bool {
    let mut lock = Flock { kind: 0, whence: 0, start: 0, length: 0, pid: 0 }; // F_RDLCK
    let done = unsafe { fcntl(file.as_raw_fd(), 36, &mut lock as *mut Flock) }; // F_OFD_GETLK
    done == 0 && lock.kind != 2 // F_UNLCK
}

fn now_ns() -> i64 {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    unsafe { clock_gettime(7, &mut now) }; // CLOCK_BOOTTIME
    now.seconds * 1_000_000_000 + now.nanoseconds
}

fn file_name(market: &str) -> String {
    let mut name = String::new();
    for (place, byte) in market.bytes().enumerate() {
        match byte {
            b'.' if place == 0 => name.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => name.push(byte as char),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name + ".book"
}

impl Region {
    fn open(share: &str, market: &str) -> Result<Region, &'static str> {
        let base = std::env::var("LDC_SHARED_FOLDER").unwrap_or_else(|_| format!("/dev/shm/ldc-{}", unsafe { getuid() }));
        let mut feeder = File::open(format!("{base}/{share}/feeder")).map_err(|_| "FEEDER_GONE")?;
        let mut said = [0u8; 64];
        feeder.read_exact(&mut said).map_err(|_| "MALFORMED")?;
        let word = |place: usize| u64::from_le_bytes(said[place..place + 8].try_into().unwrap());
        if word(0) != FEEDER_MAGIC || word(8) as u32 != VERSION {
            return Err("MALFORMED");
        }
        if !is_locked(&feeder) {
            return Err("FEEDER_GONE");
        }
        let file = File::open(format!("{base}/{share}/{}", file_name(market))).map_err(|_| "FEEDER_GONE")?;
        let size = file.metadata().map_err(|_| "FEEDER_GONE")?.len() as usize;
        if size < HEAD {
            return Err("MALFORMED");
        }
        let at = unsafe { mmap(std::ptr::null_mut(), size, 1, 1, file.as_raw_fd(), 0) }; // PROT_READ, MAP_SHARED
        if at as isize == -1 {
            return Err("MALFORMED");
        }
        let mut region = Region { words: at as *const AtomicU64, size, levels: 0, copies: 0, feeder };
        let head: Vec<u64> = (0..HEAD / 8).map(|place| region.load(place)).collect();
        let (copies, levels) = (u32_at(&head, 16), u32_at(&head, 20) as usize);
        region.copies = u64::from(copies);
        region.levels = levels;
        let is_sound = head[0] == BOOK_MAGIC
            && u32_at(&head, 8) == VERSION
            && u32_at(&head, 12) as usize == HEAD
            && (1..=2).contains(&copies)
            && (1..=50_000).contains(&levels)
            && size == HEAD + copies as usize * region.copy_bytes()
            && head[3] == size as u64;
        if !is_sound {
            return Err("MALFORMED");
        }
        if head[4] != word(16) {
            return Err("FEEDER_GONE"); // left by a feeder before this one
        }
        Ok(region)
    }

    fn copy_bytes(&self) -> usize {
        COPY + 32 * self.levels
    }

    fn load(&self, place: usize) -> u64 {
        assert!(place < self.size / 8);
        unsafe { (*self.words.add(place)).load(Ordering::Acquire) }
    }

    fn take(&self) -> Result<View, &'static str> {
        for _ in 0..ATTEMPTS {
            let number = self.load(24);
            if number == 0 {
                return Err("NOT_LOADED");
            }
            let start = (HEAD + (number % self.copies) as usize * self.copy_bytes()) / 8;
            if self.load(start) != number.wrapping_mul(2) {
                std::hint::spin_loop();
                continue;
            }
            let mut head = [0u64; COPY / 8];
            for (place, word) in head.iter_mut().enumerate() {
                *word = self.load(start + place);
            }
            let level = |place: usize| (self.load(place) as i64, self.load(place + 1) as i64);
            let (bid, ask) = (level(start + COPY / 8), level(start + COPY / 8 + 2 * self.levels));
            if self.load(start) != number.wrapping_mul(2) {
                continue;
            }
            let (bids, asks) = (u32_at(&head, 104) as usize, u32_at(&head, 108) as usize);
            let bid = (bids > 0).then_some(bid);
            let ask = (asks > 0).then_some(ask);
            let scales_fit = u32_at(&head, 96) <= 18 && u32_at(&head, 100) <= 18;
            let is_level = |level: (i64, i64)| level.0 >= 0 && level.1 > 0;
            let is_sane = bids <= self.levels && asks <= self.levels && scales_fit && (head[1] as i64) >= 0;
            if !is_sane || !bid.map_or(true, is_level) || !ask.map_or(true, is_level) {
                return Err("MALFORMED");
            }
            return Ok(View { head, bid, ask });
        }
        Err("BUSY")
    }

    fn read(&self) -> Result<View, &'static str> {
        let taken = self.take();
        let (heartbeat, proven, lease) = (self.load(25) as i64, self.load(26) as i64, self.load(27) as i64);
        let now = now_ns();
        let is_late = heartbeat < now - LATE_NS || heartbeat > now + LATE_NS;
        if self.load(28) >> 32 != 0 || (is_late && !is_locked(&self.feeder)) {
            return Err("FEEDER_GONE");
        }
        let view = taken?;
        let state = u32_at(&view.head, 60);
        if state == 2 || state == 3 {
            return Err(if state == 2 { "NOT_LOADED" } else { "SUSPENDED" });
        }
        if lease != 0 && (lease < 0 || proven < now - lease || proven > now + FUTURE_NS) {
            return Err("TOO_OLD");
        }
        let flags = u32_at(&view.head, 56);
        match state {
            1 if (flags & 8 != 0 && view.bid.is_none()) || (flags & 16 != 0 && view.ask.is_none()) => Err("LEFT_HORIZON"),
            1 => Ok(view),
            4 => Err("CROSSED"),
            _ => Err("MALFORMED"),
        }
    }
}

fn decimal(units: i64, scale: u32) -> String {
    let scale = scale as usize;
    let digits = format!("{units:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { whole.to_string() } else { format!("{whole}.{fraction}") }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, share, market] = &arguments[..] else {
        eprintln!("usage: {} NAME MARKET", arguments[0]);
        return ExitCode::from(2);
    };
    match Region::open(share, market).and_then(|region| region.read()) {
        Err(why) => {
            eprintln!("{market}: {why}");
            ExitCode::from(1)
        }
        Ok(view) => {
            let (prices, quantities) = (u32_at(&view.head, 96), u32_at(&view.head, 100));
            let mut line = view.head[1].to_string();
            for (name, level) in [("bid", view.bid), ("ask", view.ask)] {
                if let Some((price, quantity)) = level {
                    line += &format!(" {name} {} {}", decimal(price, prices), decimal(quantity, quantities));
                }
            }
            println!("{line}");
            ExitCode::SUCCESS
        }
    }
}
