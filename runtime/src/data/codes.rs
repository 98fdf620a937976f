//! Error codes of the data area.

use athanor_ir::diag::Code;

/// A data file is missing or cannot be opened.
pub const FILE_OPEN: Code = Code {
    id: "D0001",
    title: "data file cannot be opened",
    explain: "The file named in the message does not exist, is not readable, or is not a plain file. A Megatron dataset is \
              given by its prefix: `/data/wiki_text_document` stands for `/data/wiki_text_document.bin` and `.idx`. Every \
              node that reads data must see the files under the same path. Object stores (`s3://`) are not read: copy the \
              files first.",
};
/// Reading a data file failed half-way.
pub const FILE_READ: Code = Code {
    id: "D0002",
    title: "data file cannot be read",
    explain: "The operating system refused a read in the middle of a file: a failing disk, a lost network mount, or a file \
              that was truncated while it was in use. The message names the file and the byte offset.",
};
/// The `.idx` header is not one we know.
pub const IDX_HEADER: Code = Code {
    id: "D0003",
    title: "not a Megatron index file",
    explain: "An `.idx` file starts with the nine bytes `MMIDIDX\\0\\0`, a version (1) and a token type code from 1 to 8. This \
              file does not: it is something else, or it is damaged. Build the dataset again with `athanor data build`.",
};
/// The `.idx` file has another size than its header implies.
pub const IDX_SIZE: Code = Code {
    id: "D0004",
    title: "index file has the wrong size",
    explain: "The header of an `.idx` file says how many sequences and documents follow, which fixes the size of the file. A \
              shorter file was cut off while it was written or copied.",
};
/// Sequence lengths, pointers or documents contradict each other.
pub const IDX_CONTENT: Code = Code {
    id: "D0005",
    title: "index file contradicts itself",
    explain: "Sequence lengths must not be negative, byte offsets must be those of the sequences written one after the other, \
              and document starts must rise from 0 to the number of sequences. A file that breaks this is damaged.",
};
/// `.bin` is shorter than `.idx` says.
pub const BIN_SIZE: Code = Code {
    id: "D0006",
    title: "token file is shorter than its index says",
    explain: "The last sequence in the `.idx` file ends behind the end of the `.bin` file: the copy was cut off, or the two \
              files are not of the same dataset.",
};
/// A token id is not in the vocabulary.
pub const TOKEN_RANGE: Code = Code {
    id: "D0007",
    title: "token id outside the vocabulary",
    explain: "The data holds a token id that is negative or not below `vocab_size`. The dataset was made with another \
              tokenizer than the model expects, or the token type (uint16, int32) of a raw token file is stated wrongly.",
};
/// A raw token file cannot hold whole samples.
pub const TOKEN_BIN: Code = Code {
    id: "D0008",
    title: "raw token file does not fit its description",
    explain: "A raw token file holds little-endian tokens and nothing else. Its size must be a multiple of the token size, and \
              it must hold at least one sample of seq_length + 1 tokens.",
};
/// The description of the data is not usable.
pub const SPEC: Code = Code {
    id: "D0009",
    title: "unusable description of the training data",
    explain: "Keys under `train_dataset.data_loader` contradict each other or have values without a meaning, such as a split \
              that sums to zero, weights without paths, or a sequence length of zero.",
};
/// There are fewer samples than one global batch.
pub const TOO_FEW: Code = Code {
    id: "D0010",
    title: "too little data",
    explain: "The dataset has no token, or fewer samples than one global batch needs. Use more data, a shorter sequence length, \
              a smaller batch, or `drop_remainder: False`, which fills the last batch from the beginning.",
};
/// More documents end in a sample than the compressed mask can hold.
pub const EOD_MASK: Code = Code {
    id: "D0011",
    title: "more document ends in a sample than eod_pad_length",
    explain: "With `create_compressed_eod_mask` each sample carries the positions of its document ends in `eod_pad_length` \
              places. A sample with many short documents has more of them: raise `eod_pad_length`.",
};
/// A cached index is damaged.
pub const CACHE: Code = Code {
    id: "D0012",
    title: "cached dataset index is not usable",
    explain: "A file under `path_to_cache` is damaged, or belongs to another version of the dataset. The index is built anew; \
              delete the file if it is not overwritten.",
};
/// An output file cannot be written.
pub const FILE_WRITE: Code = Code {
    id: "D0013",
    title: "output file cannot be written",
    explain: "The directory does not exist, is not writable, or the disk is full. Output is written to a temporary file and \
              renamed at the end, so nothing half-written is left behind.",
};
/// An input document cannot be used.
pub const INPUT_TEXT: Code = Code {
    id: "D0014",
    title: "input text cannot be used",
    explain: "Input must be UTF-8. In a JSONL file each line is a JSON object in which the chosen keys hold a string or a list \
              of strings. The message names the file, the line and the byte offset.",
};
/// `tokenizer.json` cannot be used.
pub const TOKENIZER: Code = Code {
    id: "D0015",
    title: "tokenizer cannot be used",
    explain: "The file is not a Hugging Face `tokenizer.json`, or it lacks a token that an option needs (`--append-eod`, \
              `--add-bos-token`, `--add-eos-token`, `pad`). Name the token explicitly, or put the model's \
              `tokenizer_config.json` beside it.",
};
/// A token id does not fit the chosen token type.
pub const TOKEN_WIDTH: Code = Code {
    id: "D0016",
    title: "token id does not fit the token type",
    explain: "uint16 holds ids up to 65535. Build the dataset with int32 (the default) for larger vocabularies.",
};
/// Options of a tool contradict each other.
pub const OPTIONS: Code = Code {
    id: "D0017",
    title: "unusable options",
    explain: "The options of a data tool contradict each other or have values without a meaning; the message says which.",
};
/// The output is already there.
pub const OUTPUT_EXISTS: Code = Code {
    id: "D0018",
    title: "output already exists",
    explain: "A data tool does not replace a dataset or tokenizer unless it is asked to: give `--overwrite`, or another output \
              name.",
};

/// All codes of this area.
pub const CODES: &[&Code] = &[
    &FILE_OPEN,
    &FILE_READ,
    &IDX_HEADER,
    &IDX_SIZE,
    &IDX_CONTENT,
    &BIN_SIZE,
    &TOKEN_RANGE,
    &TOKEN_BIN,
    &SPEC,
    &TOO_FEW,
    &EOD_MASK,
    &CACHE,
    &FILE_WRITE,
    &INPUT_TEXT,
    &TOKENIZER,
    &TOKEN_WIDTH,
    &OPTIONS,
    &OUTPUT_EXISTS,
];

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_of_this_area() {
        let mut ids: Vec<_> = super::CODES.iter().map(|c| c.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), super::CODES.len());
        assert!(ids.is_sorted() && ids.iter().all(|id| id.starts_with('D')));
    }
}
