import torch

from evaluation.decoding.packed_decoder import PackedDecoder
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import load_pair
from labeler_jobs.models.huggingface import render_prompt


def test_packed_decoder_rows_of_different_length_have_the_models_own_logits() -> None:
    pair = load_pair()
    prompts = [render_prompt(pair.tokenizer, draw_sample(90_000_000 + index).query) for index in range(3)]
    decoder = PackedDecoder(pair.llm, 3, 300)
    with torch.inference_mode():
        token_ids = [token_id for prompt in prompts[:3] for token_id in prompt]
        decoder.extend(torch.tensor(token_ids), torch.tensor([len(prompt) for prompt in prompts[:3]]))
        _, logits = decoder.extend(torch.tensor([5, 6, 7]), torch.tensor([2, 1]), torch.tensor([2, 0]))
        for row, sequence in ((0, [*prompts[2], 5, 6]), (1, [*prompts[0], 7])):
            expected = pair.llm(input_ids=torch.tensor([sequence])).logits[0, -1]
            assert torch.allclose(logits[row], expected, atol=1e-4)
    assert pair.llm.config._attn_implementation == "sdpa"
