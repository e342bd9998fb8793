"""The pair's shared tokenizer: a byte-level BPE trained on the suite, with a ChatML chat template.

Any UTF-8 text can be encoded. Numbers of up to two digits are pre-tokens of their own and 0 to 39 are single tokens,
with and without the space before them, because a tiny model that has to assemble digits spends its capacity on that.
"""

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluation.reference.corpus.arithmetic import MAX_VALUE
from evaluation.reference.corpus.samples import training_samples

VOCAB_SIZE = 704
CONTEXT_LENGTH = 1024
PAD_TOKEN = "<|endoftext|>"
START_TOKEN = "<|im_start|>"
END_TOKEN = "<|im_end|>"
THINK_TOKENS = ("<think>", "</think>")
NUM_TRAINING_SAMPLES = 6_000
NUMBER_REPEATS = 400
"""How often each number is shown to the trainer, so that all of them become tokens, whatever the samples hold."""

_PRE_TOKEN = r" ?\d{1,2}|[^\S\n]?\p{L}+|[^\S\n]?[^\s\p{L}\p{N}]+|\n+|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the first samples of the training range; the result is the same in every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(THINK_TOKENS),
        special_tokens=[PAD_TOKEN, START_TOKEN, END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in THINK_TOKENS])
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _training_texts() -> Iterator[str]:
    numbers = [str(number) for number in range(MAX_VALUE + 1)]
    for _ in range(NUMBER_REPEATS):
        yield "\n".join(numbers)
        yield " " + " ".join(numbers)
    for sample in training_samples(NUM_TRAINING_SAMPLES):
        yield f"user\n{sample.query}\nassistant\n{sample.response}"
