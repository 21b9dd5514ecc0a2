"""``serve --demo``: the shop it opens and the lines it greets with."""

from __future__ import annotations

import os
from pathlib import Path

from sellapi.settings import Settings

__all__ = ["open_demo_shop", "welcome"]


def open_demo_shop(settings: Settings) -> str:
    """Create or reopen the demo database; returns a fresh key."""
    from sellapi.admin.demo import stock_demo
    from sellapi.admin.files import migrate
    from sellapi.admin.service import Admin
    from sellapi.storage.database import Database

    if Path(settings.database).exists():
        migrate(settings.database)
    database = Database.create(settings.database)
    try:
        database.check_owner()
        return stock_demo(Admin(database, actor="demo", via="cli", env=os.environ))
    finally:
        database.close()


def welcome(base: str, key: str) -> str:
    """What to paste: a curl line and an openai snippet."""
    return f"""
Your demo key (a fresh one each start):  {key}

Paste this into another terminal:

curl -N {base}/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "anthropic/claude-sonnet-4.6", "stream": true,
       "messages": [{{"role": "user", "content": "Hello!"}}]}}'

Or with the OpenAI SDK (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{base}", api_key="{key}")
answer = client.chat.completions.create(
    model="openai/gpt-5.4",
    messages=[{{"role": "user", "content": "Write a haiku"}}],
)
print(answer.choices[0].message.content)

Stop with Ctrl+C.
"""
