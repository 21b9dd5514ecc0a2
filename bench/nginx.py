"""nginx as a provider that answers at once from memory, and as the plainest of proxies."""

from __future__ import annotations

from pathlib import Path

from bench.payloads import answers

__all__ = ["proxy_conf", "upstream_conf"]

_PIECE = 3_500
"""nginx reads no word over 4,096 bytes, so longer bodies are put together from variables."""

_HEAD = """
worker_processes 1; master_process off; daemon off; pid {folder}/{name}.pid;
error_log {folder}/{name}.log; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; tcp_nodelay on;
  keepalive_requests 100000000; keepalive_timeout 600;
  client_max_body_size 0; client_body_buffer_size 64k;
  client_body_temp_path {folder}/{name}-1; proxy_temp_path {folder}/{name}-2;
  fastcgi_temp_path {folder}/{name}-3; uwsgi_temp_path {folder}/{name}-4;
  scgi_temp_path {folder}/{name}-5;
"""


def _location(name: str, mime: str, body: str) -> str:
    if any(bad in body for bad in "'$\\"):
        raise ValueError(f"{name}: nginx would read something into this body")
    pieces = [body[i : i + _PIECE] for i in range(0, len(body), _PIECE)]
    names = [f"${name.replace('-', '_')}_{i}" for i in range(len(pieces))]
    sets = "\n".join(f"set {n} '{p}';" for n, p in zip(names, pieces, strict=True))
    whole = "".join(f"${{{n[1:]}}}" for n in names)
    return f"location /{name}/ {{ default_type {mime};\n{sets}\nreturn 200 '{whole}'; }}\n"


def upstream_conf(folder: Path, port: int) -> str:
    """Static answers under ``/plain/``, ``/burst/``, ``/claude/`` …"""
    locations = "".join(_location(n, mime, body.decode()) for n, (mime, body) in answers().items())
    head = _HEAD.format(folder=folder, name="upstream")
    return f"{head}server {{ listen 127.0.0.1:{port} backlog=4096;\n{locations} }} }}\n"


def proxy_conf(folder: Path, port: int, upstream: int, paced: int) -> str:
    """Everything handed on unread: ``/paced/`` to the streaming stand-in, the rest to nginx."""
    keep = "keepalive 1024; keepalive_requests 100000000; keepalive_timeout 600s;"
    passing = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
    return (
        _HEAD.format(folder=folder, name="proxy")
        + f"upstream static {{ server 127.0.0.1:{upstream}; {keep} }}\n"
        + f"upstream paced {{ server 127.0.0.1:{paced}; {keep} }}\n"
        + f"server {{ listen 127.0.0.1:{port} backlog=4096; {passing}\n"
        + "location /paced/ { proxy_pass http://paced; }\n"
        + "location / { proxy_pass http://static; } } }\n"
    )
