"""The Images API of OpenAI, as its unmodified clients speak it: generations, edits with masks, variations."""

from wordbrush.serving.openai.routes import router

__all__ = ["router"]
