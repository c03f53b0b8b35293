"""What the page cannot say."""

from __future__ import annotations

from understudy.report.content import Content
from understudy.report.sections.base import Html, Section


def section(content: Content) -> Section:
    """Limits of every such study."""
    values = {"audited": bool(content.audits), "repeats": content.answer.repeats}
    return Section("limits", "What this page does not show", "Limits", [Html("limits.html.j2", values)])
