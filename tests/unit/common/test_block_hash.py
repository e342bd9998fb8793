from services.common.block_hash import DIGEST_LEN, hash_block


def test_hashes_differ_by_content_parent_and_key() -> None:
    block = list(range(16))
    parent = hash_block(b"", block)

    hashes = {
        parent,
        hash_block(b"", block[::-1]),
        hash_block(parent, block),
        hash_block(hash_block(b"", block[::-1]), block),
        hash_block(b"", block, b"models"),
        hash_block(b"", block, b"other models"),
    }

    assert len(hashes) == 6
    assert {len(digest) for digest in hashes} == {DIGEST_LEN}


def test_hash_is_the_same_on_every_machine() -> None:
    assert hash_block(b"", [1, 2**32 - 1], b"models").hex() == "c950ea1a946ae102e21f5b403f16cc8d"
