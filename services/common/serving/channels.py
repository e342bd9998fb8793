"""Opens gRPC channels to peers.

Owns the options of both ends of a connection, so that keepalive and message limits agree. Doesn't choose peers.
"""

from __future__ import annotations

from functools import partial

import grpc

from services.common.serving.renewing import RenewingChannel
from services.common.serving.tls import ChannelTls

ChannelOptions = list[tuple[str, int | str]]

DEFAULT_MAX_MESSAGE_MB = 16
DEFAULT_KEEPALIVE_S = 20.0

# A server closes a connection that pings more often than this; every client of the project pings at most this often.
_LEAST_PING_INTERVAL_MS = 500

_SPREAD: ChannelOptions = [
    ("grpc.lb_policy_name", "round_robin"),
    # Half a minute unless it is told: pods that have all moved would be away for as long.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]


def _shared_options(max_message_mb: int, keepalive_s: float) -> ChannelOptions:
    max_message_bytes = max_message_mb * 2**20
    timeout_ms = min(int(keepalive_s * 1000), 5000)
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        # A peer that is there answers at once; one that is gone should cost little more than one ping interval.
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # What gRPC waits for in truth, a minute unless it is told: an unanswered ping.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def server_options(
    max_message_mb: int = DEFAULT_MAX_MESSAGE_MB, keepalive_s: float = DEFAULT_KEEPALIVE_S
) -> ChannelOptions:
    """Returns the options of a server.

    Args:
        max_message_mb: Largest message in or out, in MiB.
        keepalive_s: Seconds between pings on a quiet connection.
    """
    return [
        *_shared_options(max_message_mb, keepalive_s),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
        # Two processes on one port would each get half of the calls; the second one has to fail instead.
        ("grpc.so_reuseport", 0),
    ]


def open_channel(
    target: str,
    *,
    max_message_mb: int = DEFAULT_MAX_MESSAGE_MB,
    keepalive_s: float = DEFAULT_KEEPALIVE_S,
    spread: bool = False,
    tls: ChannelTls | None = None,
) -> grpc.aio.Channel:
    """Opens a channel to a peer. It connects with the first call, and again by itself after a loss.

    Args:
        target: "host:port" or another gRPC target.
        max_message_mb: Largest message in or out, in MiB.
        keepalive_s: Seconds between pings on a quiet connection.
        spread: Calls go to all addresses of the target in turn, instead of to the first that answers.
        tls: What the connections are encrypted with; None for plain ones.
    """
    options = [
        *_shared_options(max_message_mb, keepalive_s),
        # Peers are near; a proxy from the environment is meant for the world outside.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        # Closing one channel must close its connection, and two channels to one peer must not share their fate.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 2000),
        *(_SPREAD if spread else ()),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return RenewingChannel(
        tls.credentials, partial(grpc.aio.secure_channel, target, options=[*options, *tls.options])
    )
