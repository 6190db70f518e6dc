//! Learning byte pair merges (Sennrich et al. 2016) from word counts, as CLIP's vocabulary was.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

/// What ends the last symbol of every word.
pub(super) const WORD_END: &str = "</w>";
/// A pair must occur so often to become a token.
const PAIR_COUNT_MIN: u64 = 2;

/// Two neighboring symbols, by id.
type Pair = (u32, u32);

/// What a vocabulary is made of: the token of each id, marks not included, and the merges.
pub(super) struct Vocabulary {
    /// Token of each id: 256 bytes, 256 bytes with [`WORD_END`], then one per merge.
    pub tokens: Vec<String>,
    /// Both halves of each merge, in the order in which they apply.
    pub merges: Vec<(String, String)>,
}

/// The 256 printable characters that stand for bytes, in the order of CLIP's vocabulary: GPT-2's
/// table lists the printable bytes first and gives the others the characters from U+0100 on.
pub(super) fn byte_alphabet() -> Vec<(u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=255u8).filter(printable).map(|byte| (byte, char::from(byte)));
    let others = (0..=255u8).filter(|byte| !printable(byte));
    own.chain(others.zip('\u{100}'..)).collect()
}

/// Learns at most `merges_max` merges; `words` are in the characters of [`byte_alphabet`], each
/// with its count. The pair that occurs most often is merged first, of equals the one with the
/// lowest ids, so the outcome depends on nothing but the counts. No token is learnt twice: a merge
/// applies to all words at once, so equal stretches of text are always cut alike.
pub(super) fn learn(words: &BTreeMap<String, u64>, merges_max: usize) -> Vocabulary {
    let alphabet: Vec<char> = byte_alphabet().into_iter().map(|(_, symbol)| symbol).collect();
    let mut tokens: Vec<String> = alphabet.iter().map(char::to_string).collect();
    tokens.extend(alphabet.iter().map(|symbol| format!("{symbol}{WORD_END}")));
    let ids: HashMap<char, u32> = alphabet.into_iter().zip(0..).collect();

    let mut corpus: Vec<(Vec<u32>, u64)> = Vec::with_capacity(words.len());
    for (word, &count) in words {
        let mut symbols: Vec<u32> = word.chars().filter_map(|c| ids.get(&c).copied()).collect();
        if let Some(last) = symbols.last_mut() {
            *last += ids.len() as u32;
            corpus.push((symbols, count));
        }
    }
    let mut pairs = Pairs::count(&corpus);
    let mut merges = Vec::new();
    while merges.len() < merges_max {
        let Some((left, right)) = pairs.most_frequent() else { break };
        let halves = (tokens[left as usize].clone(), tokens[right as usize].clone());
        pairs.merge(&mut corpus, (left, right), tokens.len() as u32);
        tokens.push(format!("{}{}", halves.0, halves.1));
        merges.push(halves);
    }
    Vocabulary { tokens, merges }
}

/// How often each pair occurs and in which words; `queue` may hold counts that are out of date.
struct Pairs {
    counts: HashMap<Pair, u64>,
    places: HashMap<Pair, BTreeSet<usize>>,
    queue: BinaryHeap<(u64, std::cmp::Reverse<Pair>)>,
}

impl Pairs {
    fn count(corpus: &[(Vec<u32>, u64)]) -> Self {
        let mut pairs =
            Self { counts: HashMap::new(), places: HashMap::new(), queue: BinaryHeap::new() };
        for (word, (symbols, count)) in corpus.iter().enumerate() {
            pairs.add(word, symbols, *count);
        }
        pairs.queue = pairs.counts.iter().map(|(&p, &n)| (n, std::cmp::Reverse(p))).collect();
        pairs
    }

    fn add(&mut self, word: usize, symbols: &[u32], count: u64) {
        for pair in symbols.windows(2).map(|two| (two[0], two[1])) {
            *self.counts.entry(pair).or_default() += count;
            self.places.entry(pair).or_default().insert(word);
        }
    }

    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, std::cmp::Reverse(pair))) = self.queue.pop() {
            let now = self.counts.get(&pair).copied().unwrap_or(0);
            if now == count {
                return (count >= PAIR_COUNT_MIN).then_some(pair);
            }
            if now > 0 && now < count {
                self.queue.push((now, std::cmp::Reverse(pair))); // a rise was queued when it came
            }
        }
        None
    }

    /// Replaces `pair` by `new` in every word that has it and recounts those words.
    fn merge(&mut self, corpus: &mut [(Vec<u32>, u64)], pair: Pair, new: u32) {
        let mut risen = BTreeSet::new();
        for word in self.places.remove(&pair).unwrap_or_default() {
            let (symbols, count) = &mut corpus[word];
            for old in symbols.windows(2).map(|two| (two[0], two[1])) {
                if let Some(sum) = self.counts.get_mut(&old) {
                    *sum -= *count;
                }
            }
            *symbols = merged(symbols, pair, new);
            let (symbols, count) = (symbols.clone(), *count);
            self.add(word, &symbols, count);
            risen.extend(symbols.windows(2).map(|two| (two[0], two[1])));
        }
        for pair in risen {
            self.queue.push((self.counts[&pair], std::cmp::Reverse(pair)));
        }
    }
}

/// `symbols` with every `pair`, from the left, replaced by `new`.
fn merged(symbols: &[u32], pair: Pair, new: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(symbols.len());
    let mut rest = symbols;
    while let Some((&first, tail)) = rest.split_first() {
        if tail.first().is_some_and(|&second| (first, second) == pair) {
            out.push(new);
            rest = &tail[1..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(words: &[(&str, u64)]) -> BTreeMap<String, u64> {
        words.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
    }

    #[test]
    fn the_alphabet_is_gpt2s() {
        let alphabet = byte_alphabet();
        let symbol = |byte: u8| alphabet.iter().find(|(b, _)| *b == byte).expect("all bytes").1;
        assert_eq!(alphabet[0], (b'!', '!'));
        assert_eq!((symbol(b' '), symbol(b'a'), symbol(0)), ('Ġ', 'a', 'Ā'));
        assert_eq!(alphabet[255], (0xad, '\u{143}'));
        let symbols: BTreeSet<char> = alphabet.iter().map(|(_, symbol)| *symbol).collect();
        assert_eq!(symbols.len(), 256);
    }

    #[test]
    fn the_most_frequent_pair_is_merged_first() {
        let learnt = learn(&counted(&[("low", 5), ("lower", 2), ("newest", 6), ("x", 1)]), 4);
        let merges: Vec<String> =
            learnt.merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        // `w e` 8, then of the pairs with 7 and 6 the lowest ids first.
        assert_eq!(merges[0], "w e");
        assert_eq!(merges[1], "l o");
        assert_eq!(learnt.tokens.len(), 512 + 4);
        assert_eq!(learnt.tokens[512..514], ["we".to_owned(), "lo".to_owned()]);
    }

    #[test]
    fn a_pair_seen_once_is_not_learnt() {
        assert!(learn(&counted(&[("ab", 1), ("cd", 1)]), 9).merges.is_empty());
        assert_eq!(learn(&counted(&[("ab", 2), ("cd", 1)]), 9).merges.len(), 1);
    }

    /// The same algorithm without any bookkeeping: count everything again after each merge.
    fn learn_slowly(words: &BTreeMap<String, u64>, merges_max: usize) -> Vec<(String, String)> {
        let order = learn(&BTreeMap::new(), 0).tokens;
        let mut ids: HashMap<String, u32> = order.into_iter().zip(0..).collect();
        let mut corpus: Vec<(Vec<String>, u64)> = words
            .iter()
            .map(|(word, count)| {
                let mut symbols: Vec<String> = word.chars().map(String::from).collect();
                symbols.last_mut().expect("no empty words").push_str(WORD_END);
                (symbols, *count)
            })
            .collect();
        let mut merges = Vec::new();
        while merges.len() < merges_max {
            let mut counts: BTreeMap<(u32, u32), (u64, [String; 2])> = BTreeMap::new();
            for (symbols, count) in &corpus {
                for two in symbols.windows(2) {
                    let halves = [two[0].clone(), two[1].clone()];
                    let entry = counts.entry((ids[&two[0]], ids[&two[1]])).or_insert((0, halves));
                    entry.0 += count;
                }
            }
            let best = counts.values().rev().max_by_key(|(count, _)| *count);
            let Some((_, [left, right])) = best.filter(|(count, _)| *count >= 2) else { break };
            let token = format!("{left}{right}");
            for (symbols, _) in &mut corpus {
                let mut at = 0;
                while at + 1 < symbols.len() {
                    if symbols[at] == *left && symbols[at + 1] == *right {
                        symbols.splice(at..at + 2, [token.clone()]);
                    }
                    at += 1;
                }
            }
            let new = ids.len() as u32;
            assert_eq!(ids.insert(token, new), None, "no token is learnt twice");
            merges.push((left.clone(), right.clone()));
        }
        merges
    }

    proptest! {
        #[test]
        fn the_bookkeeping_changes_nothing(
            words in prop::collection::btree_map("[abc]{1,9}", 1u64..9, 0..12), max in 0usize..30,
        ) {
            prop_assert_eq!(learn(&words, max).merges, learn_slowly(&words, max));
        }
    }
}
