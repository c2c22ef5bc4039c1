// Charges ada for an order over HTTP, once, however often this runs and whatever breaks meanwhile.
import type { AccountAnswer, OutcomeAnswer, paths, Problem } from "./creditfold.js";

type Route = "grants" | "spends";
type Body<R extends Route> =
  paths[`/v1/accounts/{account}/${R}`]["post"]["requestBody"]["content"]["application/json"];

const door = process.env.LEDGER_URL ?? "http://127.0.0.1:29080";
const access = process.env.LEDGER_KEY ? { Authorization: `Bearer ${process.env.LEDGER_KEY}` } : {};

// The key is chosen before the first try and kept with the order; each further try has the same one and so counts once.
async function append<R extends Route>(account: string, route: R, key: string, body: Body<R>): Promise<OutcomeAnswer> {
  const url = `${door}/v1/accounts/${encodeURIComponent(account)}/${route}`;
  const headers = {
    ...access,
    "Content-Type": "application/json",
    "Idempotency-Key": Buffer.from(key).toString("latin1"), // The bytes of its UTF-8, which fetch takes as Latin-1.
    Prefer: "wait=10",
  };
  for (let tries = 1; ; tries++) {
    const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) }).catch((error) => {
      if (tries > 8) throw error; // It may be written: send it again later, under the same key.
    });
    if (answer && [200, 201, 422].includes(answer.status) && !isProblem(answer)) return await answer.json();
    if (answer && (tries > 8 || ![202, 429, 502, 503, 504].includes(answer.status))) throw await refusal(answer);
    const seconds = Number(answer?.headers.get("Retry-After") ?? 1);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function isProblem(answer: Response): boolean {
  return answer.headers.get("Content-Type") === "application/problem+json";
}

async function refusal(answer: Response): Promise<Error> {
  if (!isProblem(answer)) return new Error(`${answer.status}: the command may be written; send it again later`);
  const problem: Problem = await answer.json();
  return new Error(`${problem.code}: ${problem.detail} ${problem.remedy} May be written: ${problem.maybe_written}`);
}

await append("ada", "grants", "welcome", { asset: "credits", amount: 500 });
const sold = await append("ada", "spends", "order-1", { asset: "credits", amount: 120 });
console.log(sold.accepted ? "deliver" : `don't deliver: ${sold.reason}`);

const answer = await fetch(`${door}/v1/accounts/ada?at_least=${sold.position}`, { headers: access });
const account: AccountAnswer = await answer.json();
console.log(account.balances.map((balance) => `${balance.available} ${balance.asset}`).join(", "));
