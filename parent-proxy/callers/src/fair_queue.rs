//! Whose turn it is. As many requests as there are places are under way; of those that wait, each
//! caller has one turn after the other callers had theirs, however many of them it sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Places, and who waits for one.
#[derive(Debug)]
pub struct FairQueue {
    state: Mutex<State>,
    most_waiting: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Callers that wait, the next one first; each stands here once.
    order: VecDeque<u64>,
    waiting: BTreeMap<u64, VecDeque<oneshot::Sender<Slot>>>,
}

/// A place, given to the next one when dropped.
#[derive(Debug)]
pub struct Slot {
    queue: Option<Arc<FairQueue>>,
}

/// This caller has too many requests waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl FairQueue {
    /// `most_waiting` requests of one caller wait at most.
    pub fn new(places: usize, most_waiting: usize) -> Arc<Self> {
        let state = State {
            free: places,
            order: VecDeque::new(),
            waiting: BTreeMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            most_waiting,
        })
    }

    /// Waits until it is this caller's turn.
    pub async fn take(self: &Arc<Self>, caller: u64) -> Result<Slot, QueueFull> {
        let receiver = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Slot {
                    queue: Some(Arc::clone(self)),
                });
            }
            let queue = state.waiting.entry(caller).or_default();
            if queue.len() >= self.most_waiting {
                return Err(QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            queue.push_back(sender);
            if queue.len() == 1 {
                state.order.push_back(caller);
            }
            receiver
        };
        // The sender lies in the queue until a turn comes through it.
        receiver.await.map_err(|_| QueueFull)
    }

    fn pass_on(self: Arc<Self>) {
        let mut state = self.state();
        let mut slot = Slot {
            queue: Some(Arc::clone(&self)),
        };
        while let Some(caller) = state.order.pop_front() {
            let Some(queue) = state.waiting.get_mut(&caller) else {
                continue;
            };
            let next = queue.pop_front();
            if queue.is_empty() {
                state.waiting.remove(&caller);
            } else {
                state.order.push_back(caller);
            }
            let Some(next) = next else { continue };
            match next.send(slot) {
                Ok(()) => return,
                // It went away while it waited: the next one.
                Err(back) => slot = back,
            }
        }
        slot.queue = None;
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Result<Slot, QueueFull>>>>;

    fn ask(queue: &Arc<FairQueue>, caller: u64) -> Waiting {
        let queue = Arc::clone(queue);
        let mut waiting: Waiting = Box::pin(async move { queue.take(caller).await });
        assert!(poll(&mut waiting).is_none(), "there is no place");
        waiting
    }

    fn poll(waiting: &mut Waiting) -> Option<Result<Slot, QueueFull>> {
        match waiting
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    fn now(queue: &Arc<FairQueue>, caller: u64) -> Slot {
        let queue = Arc::clone(queue);
        let mut waiting: Waiting = Box::pin(async move { queue.take(caller).await });
        poll(&mut waiting)
            .expect("a place is free")
            .expect("a turn")
    }

    #[test]
    fn who_asks_for_much_waits_for_those_who_ask_for_little() {
        let queue = FairQueue::new(2, 100);
        let (first, second) = (now(&queue, 1), now(&queue, 1));
        let mut greedy: Vec<Waiting> = (0..100).map(|_| ask(&queue, 1)).collect();
        let mut modest = ask(&queue, 2);
        let mut third = ask(&queue, 3);
        // The greedy one stood there first, and has one turn; then the others have theirs.
        drop(first);
        let slot = poll(&mut greedy[0]).unwrap().unwrap();
        assert!(poll(&mut modest).is_none());
        drop(second);
        let other = poll(&mut modest).expect("its turn").unwrap();
        drop(slot);
        assert!(poll(&mut greedy[1]).is_none());
        assert!(poll(&mut third).is_some());
        drop(other);
        assert!(poll(&mut greedy[1]).is_some());
    }

    #[test]
    fn one_caller_has_only_so_many_waiting_and_nobody_else_feels_it() {
        let queue = FairQueue::new(1, 2);
        let held = now(&queue, 1);
        let _two = [ask(&queue, 1), ask(&queue, 1)];
        let mut more: Waiting = Box::pin({
            let queue = Arc::clone(&queue);
            async move { queue.take(1).await }
        });
        assert!(matches!(poll(&mut more), Some(Err(QueueFull))));
        let _other = ask(&queue, 2);
        drop(held);
    }

    #[test]
    fn who_goes_away_while_it_waits_or_with_its_turn_in_hand_loses_none() {
        let queue = FairQueue::new(1, 10);
        let held = now(&queue, 1);
        let gone = ask(&queue, 1);
        let served = ask(&queue, 2);
        let mut last = ask(&queue, 3);
        drop(gone);
        drop(held);
        // The turn lies ready for the second, which goes away without having looked.
        drop(served);
        let slot = poll(&mut last).expect("its turn").unwrap();
        drop(slot);
        let _free = now(&queue, 4);
        assert!(queue.state().waiting.is_empty() && queue.state().order.is_empty());
    }
}
