"""One table (`OPTIONS`) that says for every setting its flags, its shape and its help."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exo_node import values


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: `flags` (first is the name in errors and help), how to read it, and where else it may be said.

    `many`: may be given several times; a text splits at `separator`. `env` are names beside `EXO_<FIELD>`. `switch`:
    the flag stands alone.
    """

    field: str
    flags: tuple[str, ...]
    read: Callable[[Any], Any]
    help: str
    metavar: str = ""
    many: bool = False
    separator: str = ","
    switch: bool = False
    env: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names in a TOML file: the field's, and the flags' with underscores."""
        flags = (flag.lstrip("-").replace("-", "_") for flag in self.flags if flag.startswith("--"))
        return tuple(dict.fromkeys((self.field, *flags)))

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables, first match counts."""
        return tuple(dict.fromkeys((*(f"EXO_{name.upper()}" for name in self.names), *self.env)))


_port = values.integer(1, 65535)
_any_port = values.integer(0, 65535)
_count = values.integer(0)
_positive = values.integer(1)
_seconds = values.number(0, open_below=True)

OPTIONS: tuple[Option, ...] = (
    Option("node_id", ("--node-id",), values.name, "this node's name in the cluster (default: made once, kept)", "ID"),
    Option("node_host", ("--node-host",), values.text, "address the gRPC server listens on (default: all)", "HOST"),
    Option("node_port", ("--node-port",), _port, "gRPC port of this node (default: a free one)", "PORT"),
    Option(
        "api_host",
        ("--host", "--api-host"),
        values.text,
        "address the HTTP API listens on; off loopback it wants --api-key or --open (default 127.0.0.1)",
        "HOST",
    ),
    Option(
        "api_port",
        ("--api-port", "--chatgpt-api-port"),
        _any_port,
        "HTTP port; 0 = any free one (default 52415, or a free one when that is taken)",
        "PORT",
    ),
    Option(
        "api_key",
        ("--api-key",),
        values.text,
        "the admin's key; HTTP clients must send it or one that `exo apikey` makes",
        "KEY",
    ),
    Option(
        "tls_cert",
        ("--tls-cert",),
        values.path,
        "certificate (PEM, with its chain) for HTTPS on the API's port; with --tls-key",
        "FILE",
    ),
    Option("tls_key", ("--tls-key",), values.path, "private key of --tls-cert (PEM, no password)", "FILE"),
    Option(
        "cacert",
        ("--cacert",),
        values.path,
        "for commands: reach the node of --host by HTTPS, trusting these certificates (PEM)",
        "FILE",
    ),
    Option("open", ("--open",), values.switch, "trust the network: serve off loopback without a key", switch=True),
    Option("cluster_key", ("--cluster-key",), values.text, "the same phrase on each machine makes a cluster", "PHRASE"),
    Option(
        "discovery_module",
        ("--discovery-module",),
        values.choice("mdns", "manual", "none"),
        "how nodes find each other: mdns (default), manual (--discovery-config-path), none (--peer only)",
        "MODULE",
    ),
    Option(
        "discovery_timeout",
        ("--discovery-timeout",),
        _seconds,
        "seconds to look for the peers of --wait-for-peers (30)",
        "SECONDS",
    ),
    Option("discovery_config_path", ("--discovery-config-path",), values.path, "peers file for manual", "FILE"),
    Option(
        "peers",
        ("--peer", "--bootstrap-peers"),
        values.host_port,
        "a node to connect to, besides those discovered (repeatable)",
        "HOST:PORT",
        many=True,
    ),
    Option(
        "allowed_origins",
        ("--allowed-origins",),
        values.origin,
        "web pages that may read this node's answers, besides this machine's and desktop apps' (repeatable)",
        "ORIGIN",
        many=True,
    ),
    Option(
        "image_hosts",
        ("--image-hosts",),
        values.text,
        "hosts whose images may be fetched for clients though their addresses are not public (repeatable)",
        "HOST",
        many=True,
    ),
    Option("wait_for_peers", ("--wait-for-peers",), _count, "peers to wait for before models are placed (0)", "N"),
    Option(
        "peer_timeout",
        ("--peer-timeout",),
        values.number(1),
        "seconds that a node or runner may say nothing before it counts as gone, 1 or more; alike on all nodes (2)",
        "SECONDS",
    ),
    Option(
        "response_timeout",
        ("--response-timeout", "--chatgpt-api-response-timeout"),
        _seconds,
        "seconds until an answer must be complete (900)",
        "SECONDS",
    ),
    Option(
        "send_timeout",
        ("--send-timeout",),
        _seconds,
        "seconds in which a client must take something of its stream, else it is cut off (60)",
        "SECONDS",
    ),
    Option(
        "shutdown_timeout",
        ("--shutdown-timeout",),
        _seconds,
        "seconds that answers have to be completed once this node is told to stop (10)",
        "SECONDS",
    ),
    Option(
        "max_generate_tokens",
        ("--max-generate-tokens",),
        _positive,
        "most tokens of one answer, whatever the request says (10000)",
        "N",
    ),
    Option(
        "inference_engine",
        ("--inference-engine",),
        values.choice("auto", "mlx", "tinygrad"),
        "auto (default), mlx or tinygrad",
        "ENGINE",
    ),
    Option("devices", ("--devices",), values.text, "devices to use, e.g. CUDA:0,CUDA:1", "IDS", many=True),
    Option(
        "min_free_memory",
        ("--min-free-memory",),
        values.size,
        "memory of the machine that stays free, e.g. 1GiB; below it no request or model is taken, below twice of it "
        "nothing is kept for later; 0 = no limit (default: 2 %% of it, at most 512MiB)",
        "SIZE",
    ),
    Option("memory_limit", ("--memory-limit",), values.size, "memory that models may take here, e.g. 4GiB", "SIZE"),
    Option(
        "models_dirs",
        ("--models-dir", "--models-seed-dir"),
        values.path,
        "folder whose sub-folders are models (repeatable; read in place)",
        "DIR",
        many=True,
        separator=os.pathsep,
    ),
    Option(
        "offline", ("--offline",), values.switch, "fetch nothing from the network", switch=True, env=("HF_HUB_OFFLINE",)
    ),
    Option("max_parallel_downloads", ("--max-parallel-downloads",), _positive, "files fetched at once (8)", "N"),
    Option("default_model", ("--default-model",), values.text, "model of requests that name none", "MODEL"),
    Option(
        "default_temp",
        ("--default-temp",),
        values.number(0, 2),
        "temperature of requests and models that name none",
        "T",
    ),
    Option("system_prompt", ("--system-prompt",), values.text, "system message of chats that have none", "TEXT"),
    Option("run_model", ("--run-model",), values.text, "place this model at start and answer --prompt", "MODEL"),
    Option("prompt", ("--prompt",), values.text, "prompt for --run-model", "TEXT"),
    Option("max_context", ("--max-context",), _positive, "tokens a sequence may hold at most (8192)", "N"),
    Option("max_sequences", ("--max-sequences",), _positive, "sequences in flight at once per model (8)", "N"),
    Option(
        "max_waiting",
        ("--max-waiting",),
        _positive,
        "requests that may wait for a model whose head is here, half of them of one API key; more get a 429 (256)",
        "N",
    ),
    Option(
        "reproducible",
        ("--reproducible",),
        values.switch,
        "this node computes each request as if it were alone: the same bits in any company, but slower together",
        switch=True,
    ),
    Option(
        "prefix_cache",
        ("--prefix-cache",),
        values.switch,
        "keep finished sequences' KV for prompts that begin alike (default; --no-prefix-cache)",
        switch=True,
    ),
    Option(
        "speculation",
        ("--speculation",),
        values.switch,
        "guess repeated text ahead and check several tokens in one step (default; --no-speculation)",
        switch=True,
    ),
    Option(
        "wire_int8",
        ("--wire-int8",),
        values.choice("off", "auto", "on"),
        "prompts' hidden states may travel as int8: off (default), auto (over links below 1 Gbit/s), on; all nodes of "
        "a ring must agree",
        "WHEN",
    ),
    Option(
        "enable_litellm",
        ("--enable-litellm",),
        values.switch,
        "serve external models too (default; --no-enable-litellm: the ring only)",
        switch=True,
    ),
    Option(
        "litellm_config",
        ("--litellm-config",),
        values.path,
        "external models: JSON, LiteLLM's config.yaml, or provider records (repeatable)",
        "FILE",
        many=True,
        separator=os.pathsep,
    ),
    Option("env_file", ("--env-file",), values.path, "provider keys and other variables (default: ./.env)", "FILE"),
    Option(
        "routing_strategy",
        ("--routing-strategy",),
        values.text,
        "how a backend is chosen: latency (default), cost, least-busy, simple-shuffle, priority, local-first, "
        "cloud-first, heuristic, hybrid, cascade, usage-based-routing, provider-budget-routing",
        "NAME",
        env=("DEFAULT_ROUTING_STRATEGY",),
    ),
    Option(
        "equivalents",
        ("--equivalents",),
        values.choice("off", "failover", "latency"),
        "when an equivalent model may answer: off, failover, latency (default: latency for your own aliases, "
        "failover for the shipped table)",
        "WHEN",
    ),
    Option(
        "continuation",
        ("--continuation",),
        values.choice("off", "same-model", "any"),
        "who may go on when a backend dies in the middle of an answer (same-model)",
        "WHO",
    ),
    Option(
        "probe",
        ("--probe",),
        values.choice("off", "local", "all"),
        "what may be measured with one-token requests while idle: off, local (default), all (spends money)",
        "WHAT",
    ),
    Option(
        "hedge", ("--hedge",), values.switch, "ask a second backend when the first is late (spends more)", switch=True
    ),
    Option("max_cost", ("--max-cost",), values.number(0), "USD that one request may be predicted to cost", "USD"),
    Option("verbose", ("--verbose",), _count, "say more; twice: much more", "N"),
    Option("debug", ("--debug",), values.integer(0, 9), "exo's DEBUG level 0..9; same as DEBUG=N", "N", env=("DEBUG",)),
)
BY_FIELD: Mapping[str, Option] = {option.field: option for option in OPTIONS}
