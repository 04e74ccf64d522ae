//! Callers who ask too much, too slowly, or too many at once; agents that do not stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

#[test]
fn a_peer_that_asks_too_much_is_told_when_it_may_again() {
    let agent = Agent::start(OK);
    let settings = "limits: {requests_per_second: 2, burst: 3, trusted_proxies: ['127.0.0.1']}\n";
    let gateway = Gateway::configured(&agent, settings);
    let of = |peer: &str| gateway.post(&format!("X-Forwarded-For: 9.9.9.9, {peer}\r\n"), "{}");
    let told: Vec<u16> = (0..5).map(|_| of("192.0.2.1").0).collect();
    assert_eq!(told, [200, 200, 200, 429, 429]);
    let (_, head, body) = of("192.0.2.1");
    assert_eq!(header(&head, "retry-after").unwrap(), "1");
    assert_eq!(body["error"], "too many requests");
    // Another one is not concerned; a whole network of IPv6 is one.
    assert_eq!(of("192.0.2.2").0, 200);
    let told: Vec<u16> = (1..=4).map(|at| of(&format!("2001:db8::{at}")).0).collect();
    assert_eq!(told, [200, 200, 200, 429]);
    // Only those that reached the agent were written down, and it knows who asked.
    assert_eq!(agent.seen().len(), 7);
    let seen = agent.seen().remove(0);
    assert_eq!(
        header(&seen, "x-forwarded-for").unwrap(),
        "9.9.9.9, 192.0.2.1, 127.0.0.1"
    );
    assert_eq!(gateway.get("/health").0, 200);
    // It heals.
    wait_for(|| of("192.0.2.1").0 == 200);
    // Who is no proxy of ours is not believed.
    let gateway = Gateway::configured(&agent, "limits: {requests_per_second: 1}\n");
    let of = |peer: &str| {
        gateway
            .post(
                &format!("X-Forwarded-For: {peer}\r\nForwarded: for={peer}\r\n"),
                "{}",
            )
            .0
    };
    assert_eq!((of("192.0.2.1"), of("192.0.2.2")), (200, 429));
    let seen = agent.seen().pop().unwrap();
    assert_eq!(header(&seen, "x-forwarded-for").unwrap(), "127.0.0.1");
    assert_eq!(header(&seen, "forwarded"), None);
}

#[test]
fn a_peer_has_so_many_connections_and_no_more() {
    let agent = Agent::start(OK);
    let gateway = Gateway::configured(&agent, "limits: {connections_per_ip: 3}\n");
    let idle: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(&gateway.address).unwrap())
        .collect();
    wait_for(|| gateway.get("/health").0 == 0);
    // The operator's port is another one.
    assert_eq!(gateway.ask("/health").0, 200);
    drop(idle);
    wait_for(|| gateway.get("/health").0 == 200);
}

/// What a process has in memory, in bytes.
fn memory(process: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<u64>().unwrap() * 1024
}

/// A body of so many bytes, in which there is something to look through.
fn long_body(bytes: usize) -> Vec<u8> {
    let mut body = b"{\"a\": [".to_vec();
    while body.len() < bytes - 80 {
        body.extend_from_slice(b"\"some words, 12345 of them, at 2026-11-29\", 1234567, ");
    }
    body.extend_from_slice(b"0]}");
    body.resize(bytes, b' ');
    body
}

#[test]
fn a_hundred_bodies_of_ten_megabytes_at_once_take_no_more_memory_than_there_is_for_them() {
    let counted = Arc::new(AtomicUsize::new(0));
    let reached = Arc::clone(&counted);
    // An agent that reads without keeping.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let reached = Arc::clone(&reached);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let length: u64 = header(&head, "content-length").unwrap().parse().unwrap();
                    let copied =
                        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink());
                    if copied.unwrap_or(0) != length {
                        return;
                    }
                    reached.fetch_add(1, Ordering::Relaxed);
                    if (&stream)
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    let gateway = Gateway::start(
        &format!("http://{address}"),
        &manifest("trusted", "ephemeral"),
        &[],
    );
    // 1,000 connections that say nothing are there all the time.
    let idle: Vec<TcpStream> = (0..1000)
        .map(|_| TcpStream::connect(&gateway.address).unwrap())
        .collect();
    let body = Arc::new(long_body(10 * 1000 * 1000));
    let senders: Vec<_> = (0..100)
        .map(|_| {
            let (body, address) = (Arc::clone(&body), gateway.address.clone());
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let head = format!("POST /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&body);
                read_answer(&stream, false).0
            })
        })
        .collect();
    // Small ones have room of their own meanwhile.
    let small = gateway.post("", "{\"a\": 1}").0;
    let told: Vec<u16> = senders
        .into_iter()
        .map(|sender| sender.join().unwrap())
        .collect();
    let peak = memory(gateway.process.id(), "VmHWM");
    assert_eq!(small, 200);
    assert!(told.iter().all(|status| *status == 200), "{told:?}");
    assert_eq!(counted.load(Ordering::Relaxed), 101);
    assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    drop(idle);
}

/// A small body that becomes a large one is counted as what it becomes.
#[test]
fn what_is_compressed_takes_room_as_what_it_becomes() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    // Without optimisation a megabyte takes half a second of a core.
    let (count, size) = if cfg!(debug_assertions) {
        (10, 1)
    } else {
        (40, 10)
    };
    encoder.write_all(&vec![b'a'; size * 1000 * 1000]).unwrap();
    let body = Arc::new(encoder.finish().unwrap());
    let senders: Vec<_> = (0..count)
        .map(|_| {
            let (body, address) = (Arc::clone(&body), gateway.address.clone());
            std::thread::spawn(move || {
                let head = format!(
                    "POST /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                exchange(&address, &[head.as_bytes(), &body].concat()).0
            })
        })
        .collect();
    let told: Vec<u16> = senders
        .into_iter()
        .map(|sender| sender.join().unwrap())
        .collect();
    let peak = memory(gateway.process.id(), "VmHWM");
    assert!(told.iter().all(|status| *status == 200), "{told:?}");
    assert!(peak < 150 << 20, "{} MiB", peak >> 20);
}

/// Two gateways in one folder would delete each other's segments.
#[test]
fn one_gateway_writes_in_a_folder() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    let log = gateway.folder.path().join("log");
    let folder = private_folder();
    let url = format!("http://{}", agent.address);
    let output = command(folder.path(), &url, &manifest("trusted", "ephemeral"))
        .args(["--port", "0", "--metrics-port", "0", "--log-dir"])
        .arg(&log)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(70), "{text}");
    assert!(text.contains("another gateway writes there"), "{text}");
}

#[test]
fn who_is_slow_is_left_and_others_go_on() {
    let huge = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000000000\r\n\r\n";
    let agent = Agent::that(move |stream, request| {
        if request.starts_with("GET /endless") {
            let _ = stream.write_all(huge.as_bytes());
            while stream.write_all(&[b'a'; 65536]).is_ok() {}
            return false;
        }
        if request.starts_with("GET /stops") {
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf",
            );
            std::thread::sleep(Duration::from_secs(100));
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            .is_ok()
    });
    let gateway = Gateway::configured(&agent, "backend: {idle_timeout: 2s}\n");
    let begin = |text: &str| {
        let mut stream = TcpStream::connect(&gateway.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let trickle = |mut stream: TcpStream, part: &'static str| {
        std::thread::spawn(move || {
            let begun = Instant::now();
            stream
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            // As long as it is not told that it is over.
            loop {
                let mut answer = [0; 64];
                match stream.read(&mut answer) {
                    Ok(0) => return (begun.elapsed(), String::new()),
                    Ok(read) => {
                        return (
                            begun.elapsed(),
                            String::from_utf8_lossy(&answer[..read]).into_owned(),
                        );
                    }
                    Err(_) if begun.elapsed() > Duration::from_secs(100) => {
                        return (begun.elapsed(), "nothing".into());
                    }
                    Err(_) => {}
                }
                if stream.write_all(part.as_bytes()).is_err() {
                    return (begun.elapsed(), String::new());
                }
            }
        })
    };
    let head = trickle(begin("GET /proxy HTTP/1.1\r\nHost: a\r\n"), "X-A: 1\r\n");
    let body = trickle(
        begin(
            "POST /proxy HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
        ),
        " ",
    );
    // One that does not read what it asked for, and is left.
    let mut reader = begin("GET /proxy/endless HTTP/1.1\r\nHost: a\r\n\r\n");
    // An agent that stops in the middle.
    let (status, _, data) = exchange(
        &gateway.address,
        b"GET /proxy/stops HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!((status, data.as_str()), (200, "half"));
    assert_eq!(gateway.post("", "{}").0, 200);
    let (took, told) = head.join().unwrap();
    assert!(
        took > Duration::from_secs(25) && took < Duration::from_secs(45),
        "{took:?}"
    );
    assert!(
        told.is_empty() || told.starts_with("HTTP/1.1 408"),
        "{told}"
    );
    let (took, told) = body.join().unwrap();
    assert!(
        took > Duration::from_secs(55) && took < Duration::from_secs(80),
        "{took:?}"
    );
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    // It was left while it did not read: what it reads now ends before its end.
    std::thread::sleep(Duration::from_secs(10));
    reader
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let read = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_or(0);
    assert!(read < 100_000_000, "{read}");
    assert_eq!(gateway.post("", "{}").0, 200);
}
