"""Backend openai against a real server: `transformers serve` with a tiny model made here.

The model is taught in a second to answer every chat with the same label, which is one token of its vocabulary. The
server ignores response_format (and logprobs and n), so that what it says has to be validated.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.core.data.tables import LABELS, read_table
from stages.core.labels.requests import PROMPT
from stages.labels import main
from tests.labellers import world
from tests.labellers.checks import OUTPUT, last_run, metrics
from tests.pipeline import tiny

SAYS = '{"summary": "Toward Venus.", "moved_from": "", "moved_to": "Venus", "domain": "astronomy", "confidence": 0.5}'
CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def make_model(folder: Path) -> None:
    """Saves a Llama of a few thousand parameters that says SAYS after <answer>."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<end>", "<answer>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )  # type: ignore[call-arg]
    inner.train_from_iterator([PROMPT.read_text(encoding="utf-8")], trainer)
    inner.add_tokens([AddedToken(SAYS, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = CHAT
    end, answer, says = (inner.get_vocab()[token] for token in ("<end>", "<answer>", SAYS))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=8192, eos_token_id=end, pad_token_id=end,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    last = torch.tensor([[answer, says, end]])
    for length in [10, 1500] * 30:  # a short context and one as long as the prompt is
        text = torch.cat([torch.randint(2, says, (1, length)), last], dim=1)
        said = torch.cat([torch.full((1, length + 1), -100), last[:, 1:]], dim=1)
        model(text, labels=said).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """The address of a server for the model in the folder `tiny`."""
    make_model(project / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # fmt: off
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "tiny", "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu"]
    # fmt: on
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with Path("serve.log").open("w") as log:
        run = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + tiny.LONGEST
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
                break
            except OSError:
                assert run.poll() is None, Path("serve.log").read_text()[-2000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        run.terminate()
        run.wait(tiny.LONGEST)


def test_a_real_server_labels_is_validated_and_is_asked_once(server: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("LABELS_TIMEOUT", "30")
    monkeypatch.setenv("LABELS_CONCURRENCY", "2")
    world.write_world(5, backend="openai")
    main(["geography"])
    table = read_table(OUTPUT, LABELS)
    assert set(table["moved_to"]) == {"Venus"} and set(table["domain"]) == {"astronomy"} and len(table) == 5
    assert metrics()["calls"] == 5 and metrics()["completion_tokens"] > 0
    assert last_run()["faults"] == {}
    main(["geography"])
    assert last_run() | {"seconds": 0} == {
        "asked": 0, "cached": 5, "faults": {}, "from_other_runs": 0, "seconds": 0, "spent_usd": 0.0, "uncertain": 0
    }  # fmt: skip
    # The same model asked for a field that its answer does not fit: the server does not mind the schema, we do.
    fields, lexicon = ["geography", "chemistry", "music"], ["geography", "chemistry"]
    world.write_params(world.params(backend="openai", fields=fields, lexicon=lexicon))
    with pytest.raises(ValueError, match=r"5 of 5 answers .* 5 wrong_enum"):
        main(["geography"])
