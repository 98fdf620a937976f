//! Byte-pair merges, learnt so that equal input gives equal output.
//!
//! At each step the most frequent pair of neighbouring tokens is merged; of equally frequent pairs the one with the
//! smaller ids. Counts are exact; only the words that hold the pair are touched.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What was learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merges {
    /// Tokens by id: special tokens, the 256 byte characters in code point order, then merged tokens.
    pub vocab: Vec<String>,
    /// Pairs in the order of learning.
    pub merges: Vec<(String, String)>,
}

type Pair = (u32, u32);

/// Learns merges from words (in the byte-level alphabet) and their counts until the vocabulary has `vocab_size`
/// tokens or no pair occurs `min_frequency` times.
#[expect(clippy::implicit_hasher, reason = "the order of the map does not matter, nor does its hasher")]
pub fn learn(words: HashMap<String, u64>, vocab_size: usize, min_frequency: u64, special: &[String]) -> Merges {
    let mut vocab: Vec<String> = special.to_vec();
    vocab.extend(alphabet().into_iter().map(String::from));
    let ids: HashMap<char, u32> = alphabet().into_iter().zip(special.len() as u32..).collect();
    let mut table = Table::new(words, &ids);
    let mut known: HashMap<String, u32> = vocab.iter().cloned().zip(0..).collect();
    let mut merges = vec![];
    while vocab.len() < vocab_size {
        let Some(pair) = table.most_frequent(min_frequency.max(1)) else { break };
        let (a, b) = (&vocab[pair.0 as usize], &vocab[pair.1 as usize]);
        let token = format!("{a}{b}");
        merges.push((a.clone(), b.clone()));
        // Two pairs can spell the same token; it has one id.
        let id = *known.entry(token.clone()).or_insert_with(|| {
            vocab.push(token);
            vocab.len() as u32 - 1
        });
        table.merge(pair, id);
    }
    Merges { vocab, merges }
}

/// The 256 characters that stand for bytes, in code point order: printable Latin-1 as it is, others from U+0100 on.
fn alphabet() -> Vec<char> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut chars: Vec<char> = (0..=255).filter(printable).map(char::from).collect();
    let others = 256 - chars.len() as u32;
    chars.extend((0..others).filter_map(|n| char::from_u32(256 + n)));
    chars
}

/// Words as tokens, with where each pair occurs.
struct Table {
    words: Vec<(Vec<u32>, u64)>,
    pairs: HashMap<Pair, Entry>,
    /// Most frequent pair first; an entry counts only if its count is still that of the pair.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

#[derive(Default)]
struct Entry {
    count: u64,
    /// Words that had the pair when they were listed; some may have lost it since.
    words: Vec<u32>,
}

impl Table {
    fn new(words: HashMap<String, u64>, ids: &HashMap<char, u32>) -> Self {
        let mut sorted: Vec<_> = words.into_iter().collect();
        sorted.sort_unstable();
        let spell = |word: String| word.chars().filter_map(|c| ids.get(&c).copied()).collect::<Vec<u32>>();
        let words: Vec<_> = sorted.into_iter().map(|(word, count)| (spell(word), count)).collect();
        let mut table = Self { words, pairs: HashMap::new(), queue: BinaryHeap::new() };
        for w in 0..table.words.len() {
            let (word, count) = &table.words[w];
            for pair in word.windows(2) {
                note(&mut table.pairs, (pair[0], pair[1]), w as u32, *count);
            }
        }
        table.queue = table.pairs.iter().map(|(&pair, e)| (e.count, Reverse(pair))).collect();
        table
    }

    fn most_frequent(&mut self, least: u64) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            if count < least {
                return None;
            }
            match self.pairs.get(&pair) {
                Some(e) if e.count == count => return Some(pair),
                // Fewer than when it was queued: it waits for its turn.
                Some(e) if e.count < count && e.count > 0 => self.queue.push((e.count, Reverse(pair))),
                _ => {}
            }
        }
        None
    }

    fn merge(&mut self, pair: Pair, id: u32) {
        let entry = self.pairs.remove(&pair).unwrap_or_default();
        let mut grown = vec![];
        for w in entry.words {
            let (word, count) = &mut self.words[w as usize];
            if !word.windows(2).any(|p| (p[0], p[1]) == pair) {
                continue;
            }
            for p in word.windows(2) {
                if let Some(e) = self.pairs.get_mut(&(p[0], p[1])) {
                    e.count -= *count;
                }
            }
            replace(word, pair, id);
            for p in word.windows(2) {
                let p = (p[0], p[1]);
                note(&mut self.pairs, p, w, *count);
                if p.0 == id || p.1 == id {
                    grown.push(p);
                }
            }
        }
        // Only pairs with the new token can have become more frequent.
        grown.sort_unstable();
        grown.dedup();
        self.queue.extend(grown.into_iter().filter_map(|p| self.pairs.get(&p).map(|e| (e.count, Reverse(p)))));
    }
}

fn note(pairs: &mut HashMap<Pair, Entry>, pair: Pair, word: u32, count: u64) {
    let entry = pairs.entry(pair).or_default();
    entry.count += count;
    if entry.words.last() != Some(&word) {
        entry.words.push(word);
    }
}

/// Replaces the pair from left to right.
fn replace(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let (mut from, mut to) = (0, 0);
    while from < word.len() {
        let hit = from + 1 < word.len() && (word[from], word[from + 1]) == pair;
        word[to] = if hit { id } else { word[from] };
        from += 1 + usize::from(hit);
        to += 1;
    }
    word.truncate(to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(words: &[(&str, u64)]) -> HashMap<String, u64> {
        words.iter().map(|(w, c)| ((*w).to_string(), *c)).collect()
    }

    /// Recounts everything at each step.
    fn slow(words: &HashMap<String, u64>, vocab_size: usize, least: u64) -> Vec<(String, String)> {
        let mut vocab: Vec<String> = alphabet().into_iter().map(String::from).collect();
        let mut words: Vec<(Vec<String>, u64)> =
            words.iter().map(|(w, c)| (w.chars().map(String::from).collect(), *c)).collect();
        let mut merges = vec![];
        while vocab.len() < vocab_size {
            let mut pairs: HashMap<(usize, usize), u64> = HashMap::new();
            let id = |t: &String| vocab.iter().position(|v| v == t).unwrap();
            for (word, count) in &words {
                word.windows(2).for_each(|p| *pairs.entry((id(&p[0]), id(&p[1]))).or_default() += count);
            }
            let best = pairs.into_iter().filter(|(_, c)| *c >= least.max(1)).max_by_key(|&(p, c)| (c, Reverse(p)));
            let Some(((a, b), _)) = best else { break };
            let (a, b) = (vocab[a].clone(), vocab[b].clone());
            for (word, _) in &mut words {
                let mut i = 0;
                while i + 1 < word.len() {
                    if word[i] == a && word[i + 1] == b {
                        word[i] = format!("{a}{b}");
                        word.remove(i + 1);
                    }
                    i += 1;
                }
            }
            let token = format!("{a}{b}");
            if !vocab.contains(&token) {
                vocab.push(token);
            }
            merges.push((a, b));
        }
        merges
    }

    #[test]
    fn the_alphabet_is_that_of_the_pre_tokenizer() {
        let mut crates: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        crates.sort_unstable();
        assert_eq!(alphabet(), crates);
    }

    #[test]
    fn the_most_frequent_pair_is_merged_first() {
        let m = learn(counts(&[("hug", 10), ("pug", 5), ("pun", 12), ("bun", 4), ("hugs", 5)]), 259, 1, &[]);
        let pairs: Vec<String> = m.merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        assert_eq!(pairs, ["u g", "u n", "h ug"]);
        assert_eq!(m.vocab[256..], ["ug", "un", "hug"]);
    }

    #[test]
    fn rare_pairs_are_not_merged() {
        assert_eq!(learn(counts(&[("ab", 3), ("cd", 2)]), 1000, 3, &[]).vocab.len(), 257);
    }

    #[test]
    fn special_tokens_come_first() {
        let m = learn(counts(&[("ab", 3)]), 300, 1, &["<s>".into()]);
        assert_eq!((m.vocab[0].as_str(), m.vocab[1].as_str(), m.vocab.len()), ("<s>", "!", 258));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn merges_equal_those_of_recounting(
            words in prop::collection::hash_map("[abc]{1,9}", 1_u64..6, 1..12),
            least in 0_u64..4,
        ) {
            let fast = learn(words.clone(), 275, least, &[]);
            prop_assert_eq!(fast.merges, slow(&words, 275, least));
        }
    }
}
