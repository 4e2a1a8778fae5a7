// What is wrong with a page as it is shown now: each check returns sentences, none where all is well.
(() => {
  const named = (element) => {
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    const classes = element.getAttribute("class");
    return `${element.localName}${classes ? `.${classes.replaceAll(" ", ".")}` : ""} “${text}”`;
  };
  const rendered = (element) =>
    element.checkVisibility({ visibilityProperty: true }) && !element.closest(".hidden");
  const all = (selector) => [...document.querySelectorAll(selector)].filter(rendered);

  // Colours: Chromium computes them as rgb or rgba.
  const parsed = (colour) => {
    const parts = colour.match(/[\d.]+/g).map(Number);
    return { rgb: parts.slice(0, 3), alpha: parts[3] ?? 1 };
  };
  const over = (front, back) =>
    front.rgb.map((part, n) => front.alpha * part + (1 - front.alpha) * back[n]);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb
      .map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (element) => {
    const behind = [];
    for (let at = element; at; at = at.parentElement) {
      behind.unshift(parsed(getComputedStyle(at).backgroundColor));
    }
    // Behind everything there is a canvas: white, as no page here leaves it to be seen.
    return behind.reduce((below, colour) => over(colour, below), [255, 255, 255]);
  };
  // Elements that look alike by their place in the page: two of each kind tell of all of them.
  const kind = (element) => {
    const names = [];
    for (let at = element; at !== document.body && at; at = at.parentElement) {
      const place = `${at.previousElementSibling ? 1 : 0}${at.nextElementSibling ? 1 : 0}`;
      names.push(`${at.localName}.${at.getAttribute("class") ?? ""}.${at.style.cssText}.${place}`);
    }
    return names.join(" ");
  };
  const samples = (elements) => {
    const seen = new Map();
    return elements.filter((element) => {
      const name = kind(element);
      seen.set(name, (seen.get(name) ?? 0) + 1);
      return seen.get(name) <= 2;
    });
  };
  const texts = () => {
    const found = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const parent = walker.currentNode.parentElement;
      const isShown = walker.currentNode.textContent.trim() && rendered(parent);
      if (isShown && !parent.closest("script,style,noscript,title,desc")) found.add(parent);
    }
    return samples([...found]);
  };
  // WCAG 2.2, 1.4.3: large text, and what a graphic must have (1.4.11), need 3, other text 4.5.
  const lowContrast = () =>
    texts().flatMap((element) => {
      const style = getComputedStyle(element);
      const isDrawn = element instanceof SVGElement;
      const behind = ground(element);
      const front = over(parsed(isDrawn ? style.fill : style.color), behind);
      const size = parseFloat(style.fontSize);
      const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const found = contrast(front, behind);
      return found >= (isLarge ? 3 : 4.5) ? [] : [`contrast ${found.toFixed(2)}: ${named(element)}`];
    });
  const lowContrastOfGraphics = () =>
    samples(all("svg .line, svg .dot, svg .whisker, svg .bar, svg .guide")).flatMap((element) => {
      const style = getComputedStyle(element);
      const colour = style.stroke === "none" ? style.fill : style.stroke;
      const behind = ground(element);
      const found = contrast(over(parsed(colour), behind), behind);
      return found >= 3 ? [] : [`contrast ${found.toFixed(2)}: ${named(element)}`];
    });

  const overflow = () => {
    const root = document.documentElement;
    if (root.scrollWidth <= root.clientWidth) return [];
    const wide = all("body *").filter(
      (e) => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".scroll,pre"),
    );
    const inner = wide.filter((e) => !wide.some((other) => other !== e && e.contains(other)));
    return [`${root.scrollWidth} px wide in ${root.clientWidth}: ${inner.slice(0, 3).map(named)}`];
  };
  // On paper nothing can be scrolled.
  const cutOff = () =>
    all(".scroll, pre")
      .filter((element) => element.scrollWidth > element.clientWidth + 1)
      .map((element) => `cut off on paper by ${element.scrollWidth - element.clientWidth} px: `
        + named(element));

  const tooSmall = () =>
    texts().flatMap((element) => {
      const matrix = element instanceof SVGElement ? element.getScreenCTM() : null;
      const scale = matrix ? Math.hypot(matrix.a, matrix.b) : 1;
      const size = parseFloat(getComputedStyle(element).fontSize) * scale;
      return size >= 9 ? [] : [`letters of ${size.toFixed(1)} px: ${named(element)}`];
    });
  // WCAG 2.2, 2.5.8; a link within a sentence is exempt.
  const smallTargets = () =>
    all("nav a, summary, button, li > a:only-child").flatMap((element) => {
      const { width, height } = element.getBoundingClientRect();
      return Math.min(width, height) >= 24 ? [] : [`a target of ${height} px: ${named(element)}`];
    });

  const charts = () =>
    all("svg").flatMap((chart) => {
      const faults = [];
      if (chart.getAttribute("role") !== "img") faults.push("no role");
      const words = (chart.getAttribute("aria-labelledby") ?? "")
        .split(" ")
        .map((id) => document.getElementById(id)?.textContent.trim());
      if (words.length !== 2 || words.some((text) => !text)) faults.push("no name or description");
      const table = chart.closest("figure")?.querySelector("details table");
      if (!table) faults.push("no table of its numbers");
      const box = chart.viewBox.baseVal;
      const letters = [...chart.querySelectorAll("text")].map((text) => ({
        text, at: text.getBoundingClientRect(),
      }));
      const frame = chart.getBoundingClientRect();
      for (const { text, at } of letters) {
        const isOut = at.left < frame.left - 1 || at.right > frame.right + 1
          || at.top < frame.top - 1 || at.bottom > frame.bottom + 1;
        if (isOut) faults.push(`text out of the picture (${box.width}): ${named(text)}`);
      }
      letters.forEach(({ text, at }, n) => {
        for (const other of letters.slice(n + 1)) {
          const wide = Math.min(at.right, other.at.right) - Math.max(at.left, other.at.left);
          const high = Math.min(at.bottom, other.at.bottom) - Math.max(at.top, other.at.top);
          if (wide > 1 && high > 3) faults.push(`${named(text)} over ${named(other.text)}`);
        }
      });
      return faults.map((fault) => `chart “${words[0]}”: ${fault}`);
    });

  const structure = () => {
    const faults = [];
    const levels = all("h1,h2,h3,h4,h5,h6").map((h) => Number(h.localName[1]));
    if (levels.filter((level) => level === 1).length !== 1) faults.push("not one h1");
    levels.forEach((level, n) => {
      if (level > (levels[n - 1] ?? 0) + 1) faults.push(`h${level} after h${levels[n - 1] ?? 0}`);
    });
    for (const landmark of ["header", "main", "footer"]) {
      if (document.querySelectorAll(`body > ${landmark}, body > .body > ${landmark}`).length !== 1) {
        faults.push(`not one ${landmark}`);
      }
    }
    if (!document.documentElement.lang) faults.push("no language");
    if (!document.title.trim()) faults.push("no title");
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    const twice = ids.filter((id, n) => ids.indexOf(id) !== n);
    // Equal charts share a name.
    if (twice.some((id) => !/^[td][0-9a-f]{10}$/.test(id))) faults.push(`ids twice: ${twice}`);
    for (const link of document.querySelectorAll('a[href^="#"]')) {
      if (!document.getElementById(link.hash.slice(1))) faults.push(`leads nowhere: ${link.hash}`);
    }
    for (const table of document.querySelectorAll("table")) {
      if (!table.caption?.textContent.trim()) faults.push("a table without a caption");
      const heads = [...table.querySelectorAll("th")];
      if (heads.some((head) => !["col", "row"].includes(head.scope))) faults.push("th without scope");
      const widths = new Set([...table.rows].map((row) => row.cells.length));
      if (widths.size > 1) faults.push(`rows of ${[...widths]} cells: ${table.caption.textContent}`);
    }
    for (const picture of document.querySelectorAll("img")) {
      if (!picture.alt.trim()) faults.push("a picture without words");
    }
    const ofPrograms = /^(undefined|None|null|nan|inf)$|\bNaN\b|\bobject Object\b/;
    for (const cell of document.querySelectorAll("p,li,td,th,dd,dt,text")) {
      if (ofPrograms.test(cell.textContent.trim())) faults.push(`a word of programs: ${named(cell)}`);
    }
    return faults;
  };

  const motion = () =>
    [document.documentElement, ...samples(all("*"))].flatMap((element) => {
      const style = getComputedStyle(element);
      const moves = style.animationName !== "none" || style.scrollBehavior !== "auto"
        || style.transitionDuration.split(", ").some((seconds) => parseFloat(seconds) > 0);
      return moves ? [`moves: ${named(element)}`] : [];
    });

  const controls = () => all('a[href], button, input, select, summary, [tabindex="0"]');
  const unfold = () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  };
  // What has the focus, one after the other, and whether that can be seen.
  const follow = () => {
    const numbers = new Map(controls().map((control, number) => [control, number]));
    globalThis.reached = [];
    document.addEventListener("focusin", ({ target }) => {
      const style = getComputedStyle(target);
      const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      globalThis.reached.push({ number: numbers.get(target) ?? -1, isSeen, name: named(target) });
    });
    document.activeElement.blur();
    scrollTo(0, 0);
    return numbers.size;
  };

  globalThis.checks = {
    lowContrast, lowContrastOfGraphics, overflow, cutOff, tooSmall, smallTargets, charts,
    structure, motion, unfold, follow,
  };
})();
