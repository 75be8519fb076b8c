//! Traffic that iperf3 makes badly or not at all.
//!
//! ```text
//! load serve ADDRESS:PORT               counts datagrams, and answers one request a TCP connection
//! load datagrams ADDRESS:PORT SECONDS   sends 22 bytes at a time: frames of 64 bytes
//! load calls ADDRESS:PORT SECONDS       connects, asks, hears the answer, closes; one after the other
//! ```
//!
//! `datagrams` prints how many a second the server received, `calls` how many a second there were.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Asks how many datagrams there were.
const COUNT: &[u8] = b"count";
/// Any other request.
const HELLO: &[u8] = b"hello";

fn serve(at: SocketAddr) -> std::io::Result<()> {
    static DATAGRAMS: AtomicU64 = AtomicU64::new(0);
    let (calls, datagrams) = (TcpListener::bind(at)?, UdpSocket::bind(at)?);
    println!("ready");
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while datagrams.recv(&mut buffer).is_ok() {
            DATAGRAMS.fetch_add(1, Relaxed);
        }
    });
    for call in calls.incoming() {
        let mut call = call?;
        let mut request = [0; 5];
        if call.read_exact(&mut request).is_ok() {
            let count = if request == COUNT { DATAGRAMS.load(Relaxed) } else { 0 };
            let _ = call.write_all(&count.to_be_bytes());
        }
    }
    Ok(())
}

fn ask(at: SocketAddr, request: &[u8]) -> std::io::Result<u64> {
    let mut call = TcpStream::connect(at)?;
    call.set_nodelay(true)?;
    call.write_all(request)?;
    let mut answer = [0; 8];
    call.read_exact(&mut answer)?;
    Ok(u64::from_be_bytes(answer))
}

fn datagrams(at: SocketAddr, time: Duration) -> std::io::Result<f64> {
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(at)?;
    let before = ask(at, COUNT)?;
    let began = Instant::now();
    while began.elapsed() < time {
        for _ in 0..64 {
            // A full queue is what is being measured.
            let _ = socket.send(&[0; 22]);
        }
    }
    let took = began.elapsed();
    thread::sleep(Duration::from_millis(200));
    Ok((ask(at, COUNT)? - before) as f64 / took.as_secs_f64())
}

fn calls(at: SocketAddr, time: Duration) -> std::io::Result<f64> {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        ask(at, HELLO)?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let at = |at: &str| at.parse().expect("ADDRESS:PORT");
    let time = |seconds: &str| Duration::from_secs_f64(seconds.parse().expect("SECONDS"));
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", to] => serve(at(to)),
        ["datagrams", to, seconds] => Ok(println!("{:.0}", datagrams(at(to), time(seconds))?)),
        ["calls", to, seconds] => Ok(println!("{:.0}", calls(at(to), time(seconds))?)),
        _ => panic!("load serve ADDRESS:PORT | datagrams ADDRESS:PORT SECONDS | calls ADDRESS:PORT SECONDS"),
    }
}
