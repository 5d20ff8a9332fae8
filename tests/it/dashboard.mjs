// Drives the dashboard in a browser, as an operator does who looks for a customer without an answer.
// Usage: node dashboard.mjs FACTS FOLDER, in whose node_modules playwright-core and axe-core are; FACTS is JSON:
// { base, viewer, operator, crashed, letter, muted, shots }
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const [text, folder] = process.argv.slice(2);
const facts = JSON.parse(text);
const require = createRequire(`${folder}/`);
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const PAGES = ['now', 'conversations', 'queues', 'letters', 'services', 'actors', 'nodes', 'audit'];
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-dev-shm-usage'] });
const faults = [];

async function visit(options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on('pageerror', (error) => faults.push(`an error in the page: ${error.message}`));
  page.on('console', (said) => {
    // A refusal that the page handles is printed by the browser all the same.
    if (said.type() === 'error' && !said.text().includes('401')) faults.push(`the console says: ${said.text()}`);
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(facts.base) && !request.url().startsWith('data:')) faults.push(`it asks elsewhere: ${request.url()}`);
  });
  return page;
}

async function signIn(page, token) {
  await page.goto(`${facts.base}/#/now`);
  await page.getByLabel('Token').fill(token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { level: 1 }).waitFor();
}

async function open(page, name) {
  await page.goto(`${facts.base}/#/${name}`);
  await page.getByRole('heading', { level: 1 }).waitFor();
}

async function accessible(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  for (const it of violations.filter((it) => ['serious', 'critical'].includes(it.impact))) {
    faults.push(`${name}: ${it.id}: ${it.help}: ${it.nodes.map((node) => node.html.slice(0, 120)).join(' | ')}`);
  }
}

const parts = {
  async 'a wrong token is asked for again, and a viewer cannot act'() {
    const page = await visit();
    await page.goto(facts.base);
    await page.getByLabel('Token').fill('wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('This token is not known to the node.').waitFor();
    await page.getByLabel('Token').fill(facts.viewer);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('navigation', { name: 'Pages' }).waitFor();
    await open(page, 'services');
    assert(await page.getByRole('button', { name: 'Hold open…' }).first().isDisabled(), 'a viewer only looks');
    await page.getByRole('row', { name: /the chat/ }).waitFor();
    await page.context().close();
  },

  async 'the crashed actor leads to its dead letter, which is replayed and answered'() {
    const page = await visit();
    await signIn(page, facts.operator);
    await open(page, 'actors');
    await page.getByRole('button', { name: 'Unfold conversations' }).click();
    await page.locator('li', { hasText: facts.crashed }).filter({ hasText: 'failed' }).getByRole('link', { name: facts.crashed, exact: true }).first().click();
    await page.getByText('panic: a panic was ordered').first().waitFor();
    await page.locator('dd', { hasText: 'panic: a panic was ordered' }).getByRole('link').click();
    await page.getByText('It was given up').waitFor();
    await page.getByRole('link', { name: 'Its dead letter' }).click();
    await page.getByRole('button', { name: 'Show what the customer wrote' }).click();
    await page.locator('pre', { hasText: '<img src=x' }).waitFor();
    await page.getByRole('button', { name: 'Replay…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Replay' }).click();
    await page.getByText('Posted in 1 part').waitFor();
    await page.getByText('It was answered').waitFor();
    await open(page, 'audit');
    for (const deed of ['letter.read', 'letter.replay']) await page.getByRole('cell', { name: deed }).first().waitFor();
    await page.context().close();
  },

  async 'a breaker is held open by hand and let go'() {
    const page = await visit();
    await signIn(page, facts.operator);
    await open(page, 'services');
    await page.getByRole('button', { name: 'Hold open…' }).click();
    await page.getByRole('dialog').getByText('No call is made any more').waitFor();
    await page.getByRole('dialog').getByRole('button', { name: 'Hold open' }).click();
    await page.getByText('held open', { exact: true }).waitFor();
    await page.getByRole('button', { name: 'Let it decide' }).click();
    await page.getByRole('button', { name: 'Hold open…' }).waitFor();
    await page.context().close();
  },

  async 'a conversation is muted and speaks again'() {
    const page = await visit();
    await signIn(page, facts.operator);
    await open(page, `conversations/${encodeURIComponent(facts.muted)}`);
    await page.getByRole('button', { name: 'Mute the bot here…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Mute', exact: true }).click();
    await page.getByRole('button', { name: 'End the mute…' }).click();
    await page.getByLabel('Answer them').check();
    await page.getByRole('dialog').getByRole('button', { name: 'End the mute' }).click();
    await page.getByRole('button', { name: 'Mute the bot here…' }).waitFor();
    await page.context().close();
  },

  async 'letters of one cause are tried dry'() {
    const page = await visit();
    await signIn(page, facts.operator);
    await open(page, 'letters');
    await page.getByRole('button', { name: 'What would happen?' }).click();
    await page.getByText(/\d+ letters.*would/).waitFor();
    await page.context().close();
  },

  async 'every page is accessible, light and dark, wide and narrow, and shows markup as text'() {
    const looks = [['light', 1920], ['dark', 1280], ['light', 360], ['dark', 360]];
    for (const [colorScheme, width] of looks) {
      const page = await visit({ colorScheme, viewport: { width, height: 900 } });
      await signIn(page, facts.operator);
      const details = [`letters/${facts.letter}`, `conversations/${encodeURIComponent(facts.crashed)}`, `messages/${facts.letter}`];
      for (const name of [...PAGES, ...details]) {
        await open(page, name);
        if (name.startsWith('letters/')) await page.getByRole('heading', { name: 'Its history' }).waitFor();
        if (name === PAGES[0]) await page.getByRole('img', { name: /Messages answered/ }).waitFor();
        await accessible(page, `${name} (${colorScheme}, ${width})`);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (overflow > 0) faults.push(`${name} is ${overflow} px too wide at ${width}`);
        if (await page.locator('main img, main script').count()) faults.push(`${name}: markup was taken for markup`);
        if (facts.shots) await page.screenshot({ path: `${facts.shots}/${name.split('/')[0]}${name.includes('/') ? '-one' : ''}-${colorScheme}-${width}.png`, fullPage: true });
      }
      assert.equal(await page.evaluate(() => globalThis.owned), undefined);
      await page.context().close();
    }
  },

  async 'who has signed in is not signed out by a late refusal'() {
    const page = await visit();
    let release;
    const signedIn = new Promise((resolve) => { release = resolve; });
    await page.route('**/admin/events', async (route) => {
      if (!route.request().headers().authorization) await signedIn;
      await route.continue();
    });
    await signIn(page, facts.operator);
    const answered = (status) => page.waitForResponse((answer) => answer.url().endsWith('/admin/events') && answer.status() === status);
    const [refused, asked] = [answered(401), answered(200)];
    release();
    await refused;
    await asked;
    assert(!(await page.getByRole('dialog').isVisible()), 'it asks for a token again');
    await page.context().close();
  },

  async 'everything is reached with the keyboard alone'() {
    const page = await visit();
    await signIn(page, facts.operator);
    await page.keyboard.press('Tab');
    const seen = new Set();
    for (let n = 0; n < 40; n += 1) {
      seen.add(await page.evaluate(() => document.activeElement?.textContent?.trim().slice(0, 40)));
      await page.keyboard.press('Tab');
    }
    for (const name of ['Now', 'Dead letters', 'Audit', 'Theme']) assert(seen.has(name), `${name} is not reached: ${[...seen]}`);
    await page.context().close();
  },
};

for (const [name, run] of Object.entries(parts)) {
  try {
    await run();
  } catch (error) {
    faults.push(`${name}: ${error.message}`);
  }
}
await browser.close();
if (faults.length) {
  console.error(faults.join('\n'));
  process.exit(1);
}
