//! More than one agent should ask for.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use harness::services::PLACEHOLDER;
use harness::wait_for;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::setting::Setting;
use super::upstream::{Upstream, answer};

const STREAMS: usize = 10_000;

/// The first line of what a stream is answered, and its connection; nothing, if that was not even taken.
fn stream(setting: &Setting) -> Option<(String, UnixStream)> {
    let mut stream = UnixStream::connect(&setting.socket).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let asked = stream.write_all(b"GET /api/files/endless HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut head = [0; 32];
    asked.and_then(|()| stream.read_exact(&mut head)).ok()?;
    let line = String::from_utf8_lossy(&head).into_owned();
    Some((line.split("\r\n").next()?.to_owned(), stream))
}

#[test]
fn of_ten_thousand_streams_of_one_agent_sixty_four_run_and_others_are_served() {
    let limit = getrlimit(Resource::Nofile).maximum;
    if limit.is_some_and(|limit| limit < 2 * STREAMS as u64) {
        return harness::skipped("a process may not have 20,000 open files here");
    }
    let all = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, all).unwrap();
    let upstream = Upstream::start(|request, tls| {
        if !request.line.contains("endless") {
            return answer(tls, 200, "", b"ok");
        }
        write!(tls, "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            write!(tls, "6\r\ndata\n\n\r\n")?;
            tls.flush()?;
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let setting = Setting::start(upstream);
    let bearer = format!("authorization: Bearer {PLACEHOLDER}\r\n");
    let other = || setting.ask_tcp("GET /api/models", &bearer, b"");
    assert!(other().ends_with("ok"));
    let sidecar = setting.running.sidecar.pid();
    let before = harness::peak(sidecar);
    let all: Vec<_> = std::thread::scope(|scope| {
        let open = || (0..STREAMS / 8).map(|_| stream(&setting)).collect();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        let each = threads.into_iter().map(|thread| thread.join().unwrap());
        each.flat_map(|all: Vec<_>| all).collect()
    });
    let said = |what: &str| {
        let lines = all.iter().flatten();
        lines.filter(|(line, _)| line.starts_with(what)).count()
    };
    let (running, refused) = (
        said("HTTP/1.1 200"),
        said("HTTP/1.1 503") + said("HTTP/1.1 429"),
    );
    let untaken = all.iter().filter(|one| one.is_none()).count();
    assert_eq!((running, running + refused + untaken), (64, STREAMS));
    // Another caller has its answer meanwhile.
    assert!(other().ends_with("ok"));
    let grown = harness::peak(sidecar) - before;
    assert!(grown < 60_000, "{grown} kB, {untaken} not taken");
    drop(all);
    // And when they have gone, their places are free.
    wait_for(|| setting.ask("GET /api/models", "", b"").status == 200);
}
