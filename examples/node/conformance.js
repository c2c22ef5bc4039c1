// Checks this example against schemas/conformance.json of the ledger: names, partitions, bytes.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isName, partitionOf, Schemas } from './ledger.js'

const folder = process.argv[2]
const schemas = new Schemas(join(folder, 'lock.json'))
const { partitions, refused_accounts: refused, commands } = JSON.parse(readFileSync(join(folder, 'conformance.json')))

for (const [account, expected] of partitions.accounts) {
  assert(isName(account, 128), account)
  assert.deepEqual(partitions.counts.map(count => partitionOf(account, count)), expected, account)
}
for (const account of refused) {
  assert(!isName(account, 128), JSON.stringify(account))
}
for (const { record, fields, key, value } of commands) {
  assert.equal(Buffer.from(fields.account).toString('hex'), key)
  assert.equal(schemas.encode(record, fields).toString('hex'), value, record)
}
console.log(`${partitions.accounts.length} accounts and ${commands.length} commands agree`)
