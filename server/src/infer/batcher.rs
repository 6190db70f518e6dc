//! The batch rule, pure: what waits is taken at once, in order of arrival; nobody waits for more.

use std::{collections::VecDeque, time::Instant};

use super::queue::Entry;

/// What one look at a queue gives.
#[derive(Debug, Default)]
pub struct Taken {
    /// To be computed together, at most the batch limit.
    pub batch: Vec<Entry>,
    /// Their deadline has passed: to be answered so.
    pub expired: Vec<Entry>,
    /// Entries whose client had left.
    pub gone: usize,
}

/// Takes the next batch from the front of `waiting`; entries that are no longer worth computing
/// take no place in it.
pub fn take(waiting: &mut VecDeque<Entry>, batch_max: usize, now: Instant) -> Taken {
    let mut taken = Taken::default();
    while taken.batch.len() < batch_max
        && let Some(entry) = waiting.pop_front()
    {
        if entry.reply.is_closed() {
            taken.gone += 1;
        } else if entry.deadline <= now {
            taken.expired.push(entry);
        } else {
            taken.batch.push(entry);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clip::text::TokenBatch;
    use tokio::sync::oneshot;

    use super::{
        super::queue::{Input, Places},
        *,
    };

    /// `.` waits, `g` has left, `x` has expired; the batch is given as positions in `queue`.
    fn check(queue: &str, batch_max: usize, batch: &[u32], expired: usize, gone: usize) {
        let now = Instant::now();
        let mut clients = Vec::new();
        let mut waiting: VecDeque<Entry> = queue
            .chars()
            .zip(0..)
            .map(|(kind, id)| {
                let (reply, client) = oneshot::channel();
                if kind != 'g' {
                    clients.push(client);
                }
                let later = now + Duration::from_secs(1);
                let deadline = if kind == 'x' { now } else { later };
                let input = Input::Text(TokenBatch::from_ids(vec![id], 1));
                Entry { input, reply, deadline, queued: now, places: Places::none() }
            })
            .collect();
        let before = waiting.len();
        let taken = take(&mut waiting, batch_max, now);
        let ids: Vec<u32> = taken
            .batch
            .iter()
            .map(|entry| match &entry.input {
                Input::Text(tokens) => tokens.ids()[0],
                Input::Image(_) => unreachable!("only texts were queued"),
            })
            .collect();
        assert_eq!((ids.as_slice(), taken.expired.len(), taken.gone), (batch, expired, gone));
        assert_eq!(waiting.len(), before - batch.len() - expired - gone);
    }

    #[test]
    fn what_waits_is_taken_in_order_up_to_the_limit() {
        check("", 4, &[], 0, 0);
        check("...", 4, &[0, 1, 2], 0, 0);
        check(".....", 4, &[0, 1, 2, 3], 0, 0);
        check(".g.x..", 4, &[0, 2, 4, 5], 1, 1);
        check("..gx", 2, &[0, 1], 0, 0);
        check("ggxx", 2, &[], 2, 2);
    }
}
