// Walks the console in a real Chromium: what axe-core finds on each page, light and dark, at 360 px; the keyboard; and
// the three questions of support. Reads what to do as JSON from its first argument, and prints what it saw as JSON.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const asked = JSON.parse(process.argv[2]);
const axe = readFileSync(new URL("./node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
// Longest wait for what must come: only a hang exceeds it, however slow the machine is.
const HANG_MS = 300_000;
const args = ["--no-sandbox", "--disable-dev-shm-usage"];
const browser = await chromium.launch({ executablePath: asked.browser, args, timeout: HANG_MS });
const THEMES = ["light", "dark"];
const seen = { pages: [], console: [], clicks: {}, keyboard: {} };

async function newContext(options) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(HANG_MS);
  return context;
}

async function opened(colorScheme, width) {
  const context = await newContext({ colorScheme, viewport: { width, height: 900 }, baseURL: asked.url });
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error)));
  return page;
}

async function logIn(page) {
  await page.goto("/console/login");
  await page.fill("#key", asked.key);
  await follow(page, () => page.keyboard.press("Enter"));
}

async function look(page, path, themes) {
  await page.goto(path);
  await inspect(page, path, themes);
}

// Does something that leads to another page, and waits until that is there with all that it loads.
async function follow(page, act) {
  const before = page.url();
  await act();
  await page.waitForURL((url) => url.href !== before);
}

// What axe-core finds on a page that is there, in each theme: the same page takes the other one's colours.
async function inspect(page, path, themes) {
  // Without its style sheet a page has other colours.
  await page.waitForLoadState("load");
  const bytes = await page.evaluate(() => performance.getEntriesByType("navigation")[0].decodedBodySize);
  await page.evaluate(axe);
  for (const colorScheme of themes) {
    await page.emulateMedia({ colorScheme });
    const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const bad = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
    const violations = bad.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(" ")}`);
    seen.pages.push({ path, theme: colorScheme, background, bytes, overflow, violations, checked: found.testEngine.name });
  }
}

// Each page in both themes, on a phone.
const phone = await opened("light", 360);
await look(phone, "/console/login", THEMES);
await logIn(phone);
for (const path of asked.pages) await look(phone, path, THEMES);
// What a form answers: with what is wrong, then with a preview.
for (const amount of ["0", "50"]) {
  await phone.goto(asked.form);
  await phone.fill("#amount", amount);
  await phone.fill("#reason", "a picture was lost");
  await phone.click("main button");
  await phone.waitForSelector(amount === "0" ? "#error" : "#preview");
  await inspect(phone, `${asked.form} ${amount}`, THEMES);
}
await phone.context().close();

// The three questions: how many clicks from the search, and what is read there.
const page = await opened("light", 1000);
await logIn(page);
for (const [name, question] of Object.entries(asked.questions)) {
  await page.goto("/console");
  let clicks = 0;
  await page.fill("#q", question.search);
  for (const target of ["Search", ...question.links]) {
    const one = page.locator(`main :is(a, button):text-is("${target}"), main a[aria-label="${target}"]`).first();
    await follow(page, () => one.click());
    clicks += 1;
  }
  seen.clicks[name] = { clicks, said: await page.locator("main").innerText() };
}

// By the keyboard alone: skip the navigation, search, and follow the first hit.
await page.goto("/console?q=" + encodeURIComponent(asked.keyboard));
await page.evaluate(() => document.activeElement.blur());
const order = [];
for (let n = 0; n < 30; n += 1) {
  await page.keyboard.press("Tab");
  const at = await page.evaluate(() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    return { name: one.innerText || one.id || one.name, shown: style.outlineStyle !== "none" };
  });
  order.push(at);
  if (at.name === asked.keyboard) break;
}
await follow(page, () => page.keyboard.press("Enter"));
seen.keyboard = { order, at: new URL(page.url()).pathname };

await page.goto("/console/books");
await page.waitForSelector("#classes");
await page.waitForSelector("#ending");
seen.books = await page.locator("main").innerText();

// A door without keys: a form of its own pages is not one of another origin.
await page.goto(asked.open + "/console/login");
await follow(page, () => page.click("main button"));
seen.open = new URL(page.url()).pathname;

// By an identity provider, which is another site, without JavaScript; in an address of its own name the door is one.
const byProvider = await newContext({ javaScriptEnabled: false });
const login = await byProvider.newPage();
await login.goto(asked.provided + asked.shown);
await follow(login, () => login.click("main a.button"));
seen.provider = { asked: new URL(login.url()).host };
await login.click("button >> nth=0");
await login.waitForURL(asked.provided + asked.shown);
seen.provider.said = await login.locator("body").innerText();
const cookies = await byProvider.cookies(asked.provided + "/console/login");
seen.provider.cookies = Object.fromEntries(cookies.map((one) => [one.name, one.sameSite]));
const themed = await opened("dark", 360);
await look(themed, asked.provided + "/console/login", ["dark"]);

if (asked.screenshot) {
  await page.setViewportSize({ width: 1000, height: 760 });
  await page.goto(asked.shown);
  await page.screenshot({ path: asked.screenshot });
}
await browser.close();
console.log(JSON.stringify(seen));
