//! The memory that bodies take, of all connections together.
//!
//! A body takes room as it arrives, not as it announces itself. Small bodies have a part of their own,
//! so that large ones do not keep them out; one peer has a quarter at most. A body that finds no room
//! waits: for room, or for its turn to be the one body that may go on whatever there is, so that
//! bodies which wait for each other's room do not wait for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// What all bodies take, in bytes, where no body may be longer than 10 MiB.
const TOTAL: usize = 64 << 20;
/// What only small bodies take.
const FOR_SMALL: usize = 16 << 20;
/// A body is small up to so many bytes.
const SMALL: usize = 64 << 10;
/// How long one waits for room.
const WAIT: Duration = Duration::from_secs(20);

/// Who sends: an address, or its /64 network if it is one of IPv6; none on a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(Option<IpAddr>);

impl Peer {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(Some(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            address @ IpAddr::V4(_) => address,
        }))
    }
}

/// The room that there is.
#[derive(Debug)]
pub struct Rooms {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// The turn of the body that may go on. What it may take at most is kept free for it.
    turn: Arc<Semaphore>,
    of_peers: Mutex<BTreeMap<Peer, Weak<Semaphore>>>,
    of_peer: usize,
}

/// There was no room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What one body takes; it is given back with it.
#[derive(Debug, Default)]
pub struct Room {
    taken: usize,
    turn: Option<OwnedSemaphorePermit>,
    others: Vec<OwnedSemaphorePermit>,
}

impl Rooms {
    /// For bodies of at most `max_body` bytes.
    pub fn new(max_body: usize) -> Self {
        let total = TOTAL.max(FOR_SMALL + 4 * max_body);
        Self {
            small: Arc::new(Semaphore::new(FOR_SMALL)),
            large: Arc::new(Semaphore::new(total - FOR_SMALL - max_body)),
            turn: Arc::new(Semaphore::new(1)),
            of_peers: Mutex::default(),
            of_peer: total / 4,
        }
    }

    /// Takes so many bytes more, if there is room now.
    pub fn try_grow(&self, room: &mut Room, peer: Peer, bytes: usize) -> Result<(), Full> {
        let count = u32::try_from(bytes).map_err(|_| Full)?;
        let taken = take_at_once(&self.of_peer(peer), &self.large, count).map_err(|_| Full)?;
        room.taken += bytes;
        taken.into_iter().for_each(|permit| room.add(permit));
        Ok(())
    }

    /// Takes so many bytes more; waits where there is no room.
    pub async fn grow(&self, room: &mut Room, peer: Peer, bytes: usize) -> Result<(), Full> {
        room.taken += bytes;
        if room.turn.is_some() {
            return Ok(());
        }
        let count = u32::try_from(bytes).map_err(|_| Full)?;
        if room.taken <= SMALL
            && let Ok(permit) = Arc::clone(&self.small).try_acquire_many_owned(count)
        {
            room.add(permit);
            return Ok(());
        }
        let of_peer = self.of_peer(peer);
        let taken = take_at_once(&of_peer, &self.large, count);
        let [of_peer, large] = match taken {
            Ok(permits) => permits,
            Err(_) => {
                let some = async {
                    let of_peer = of_peer.acquire_many_owned(count).await?;
                    let large = Arc::clone(&self.large).acquire_many_owned(count).await?;
                    Ok::<_, tokio::sync::AcquireError>([of_peer, large])
                };
                tokio::select! {
                    taken = some => taken.map_err(|_| Full)?,
                    turn = Arc::clone(&self.turn).acquire_owned() => {
                        room.turn = Some(turn.map_err(|_| Full)?);
                        return Ok(());
                    }
                    () = tokio::time::sleep(WAIT) => return Err(Full),
                }
            }
        };
        room.add(of_peer);
        room.add(large);
        Ok(())
    }

    fn of_peer(&self, peer: Peer) -> Arc<Semaphore> {
        let mut of_peers = self.of_peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = of_peers.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        // Those that are gone are forgotten where a new one comes.
        of_peers.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.of_peer));
        of_peers.insert(peer, Arc::downgrade(&new));
        new
    }
}

fn take_at_once(
    of_peer: &Arc<Semaphore>,
    large: &Arc<Semaphore>,
    count: u32,
) -> Result<[OwnedSemaphorePermit; 2], TryAcquireError> {
    let of_peer = Arc::clone(of_peer).try_acquire_many_owned(count)?;
    let large = Arc::clone(large).try_acquire_many_owned(count)?;
    Ok([of_peer, large])
}

impl Room {
    /// What it has taken, in bytes.
    pub fn taken(&self) -> usize {
        self.taken
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        // Those of one place are one.
        for known in &mut self.others {
            if Arc::ptr_eq(known.semaphore(), permit.semaphore()) {
                known.merge(permit);
                return;
            }
        }
        self.others.push(permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 10 << 20;

    fn peer(address: &str) -> Peer {
        Peer::of(address.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_a_quarter_and_one_body_that_goes_on() {
        let rooms = Rooms::new(MAX);
        let one = peer("192.0.2.1");
        let mut rooms_of_one = Vec::new();
        for _ in 0..2 {
            let mut room = Room::default();
            rooms.grow(&mut room, one, 8 << 20).await.unwrap();
            assert!(room.turn.is_none());
            rooms_of_one.push(room);
        }
        // Of two that find no room one goes on, the other one waits in vain.
        let mut third = Room::default();
        rooms.grow(&mut third, one, MAX).await.unwrap();
        assert!(third.turn.is_some());
        let mut fourth = Room::default();
        assert_eq!(rooms.grow(&mut fourth, one, 1 << 20).await, Err(Full));
        // Another peer has room; so have small bodies of this one.
        let mut other = Room::default();
        rooms
            .grow(&mut other, peer("192.0.2.2"), MAX)
            .await
            .unwrap();
        assert!(other.turn.is_none());
        let mut small = Room::default();
        rooms.grow(&mut small, one, SMALL).await.unwrap();
        assert_eq!(rooms.grow(&mut small, one, 1).await, Err(Full));
        drop(third);
        let mut fourth = Room::default();
        rooms.grow(&mut fourth, one, 1 << 20).await.unwrap();
        drop((rooms_of_one, fourth, other, small));
        assert_eq!(rooms.small.available_permits(), FOR_SMALL);
        assert_eq!(rooms.large.available_permits(), TOTAL - FOR_SMALL - MAX);
        assert_eq!(rooms.turn.available_permits(), 1);
    }

    /// A hundred bodies that take what there is and wait for each other all get through.
    #[tokio::test]
    async fn bodies_that_wait_for_each_other_all_get_through() {
        let rooms = Arc::new(Rooms::new(MAX));
        let body = |at: u8| {
            let rooms = Arc::clone(&rooms);
            tokio::spawn(async move {
                let mut room = Room::default();
                for _ in 0..MAX / SMALL {
                    rooms
                        .grow(&mut room, peer(&format!("192.0.2.{}", at % 8)), SMALL)
                        .await?;
                    tokio::task::yield_now().await;
                }
                Ok::<(), Full>(())
            })
        };
        let bodies: Vec<_> = (0..100).map(body).collect();
        for body in bodies {
            assert_eq!(body.await.unwrap(), Ok(()));
        }
    }
}
