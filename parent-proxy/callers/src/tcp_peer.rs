//! Whose a TCP connection of this host is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// In another state a socket may be nobody's any more, and the kernel says 0 then.
const ESTABLISHED: &str = "01";

/// The user whose process has the socket at `from` that is connected to `to`, where both are on this
/// host and in this network namespace (proc_pid_net(5), `tcp` and `tcp6`).
pub fn uid_of(from: SocketAddr, to: SocketAddr) -> Option<u32> {
    let files = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| find(&text, from, to))
}

fn find(text: &str, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    text.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = address(fields.nth(1)?)?;
        let remote = address(fields.next()?)?;
        let is_it = (local, remote) == (from, to) && fields.next()? == ESTABLISHED;
        // Queues, timer, retransmissions, and then the user.
        is_it.then(|| fields.nth(3)?.parse().ok()).flatten()
    })
}

/// An address in the kernel's words: groups of 32 bits in this machine's order, in hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let group = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(group.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&words.concat());
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_a_connection_is_found_by_both_its_ends() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let to = listener.local_addr().unwrap();
            let stream = TcpStream::connect(to).unwrap();
            let from = stream.local_addr().unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(uid_of(from, to), Some(own), "{address}");
            let mut other = from;
            other.set_port(from.port() ^ 1);
            assert_eq!(uid_of(other, to), None);
            let mut elsewhere = to;
            elsewhere.set_port(to.port() ^ 1);
            assert_eq!(uid_of(from, elsewhere), None);
        }
    }

    #[test]
    fn a_line_of_the_kernels_is_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:A2B4 0100007F:2382 01 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 20 4 30 10 -1\n";
        let of = |from: &str, to: &str| find(text, from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(of("127.0.0.1:41652", "127.0.0.1:9090"), Some(1000));
        assert_eq!(of("127.0.0.1:9090", "127.0.0.1:41652"), None);
        let closed = text.replace(" 01 ", " 06 ").replace("  1000  ", "     0  ");
        assert!(closed.contains("     0  ") && closed.contains(" 06 "));
        let (from, to) = ("127.0.0.1:41652", "127.0.0.1:9090");
        let found = find(&closed, from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(found, None);
        assert_eq!(
            find(
                "",
                "127.0.0.1:1".parse().unwrap(),
                "127.0.0.1:2".parse().unwrap()
            ),
            None
        );
    }
}
