// A shop that grants and charges credits, and charges for no order twice:
//   node shop.js ACCOUNT:KIND:ID:AMOUNT ...
import { ProduceAcks, Producer } from '@platformatic/kafka'
import { isName, partitioner, Schemas } from './ledger.js'
import { Outcomes } from './outcomes.js'

const env = process.env
const bootstrap = (env.CREDITFOLD_KAFKA_BOOTSTRAP ?? '127.0.0.1:29092').split(',')
const topics = {
  commands: env.CREDITFOLD_COMMANDS_TOPIC ?? 'creditfold.commands.v1',
  outcomes: env.CREDITFOLD_OUTCOMES_TOPIC ?? 'creditfold.outcomes.v1',
  deadLetters: env.CREDITFOLD_DEAD_LETTERS_TOPIC ?? 'creditfold.dead-letters.v1'
}
const RECORDS = { grant: 'creditfold.commands.Grant', spend: 'creditfold.commands.Spend' }
const TIMEOUT_MS = 300_000

const open = () =>
  new Producer({ clientId: 'shop', bootstrapBrokers: bootstrap, idempotent: true, acks: ProduceAcks.ALL, partitioner })

// Appends a command and returns its position. One at a time: this library numbers records when they are confirmed.
async function append (record, command) {
  const message = { topic: topics.commands, key: Buffer.from(command.account), value: schemas.encode(record, command) }
  const deadline = Date.now() + TIMEOUT_MS
  while (true) {
    try {
      const { offsets } = await producer.send({ messages: [message] })
      return `${offsets[0].partition}:${offsets[0].offset}`
    } catch (error) {
      if (Date.now() > deadline) throw error
      // It may be in the log or not. The same command with the same id is safe, however often: it counts once. By a
      // new producer, since the old one may number the next record as a repeat of this one.
      await producer.close(true).catch(() => {})
      producer = open()
    }
  }
}

const schemas = new Schemas(env.SHOP_SCHEMAS ?? 'lock.json')
const outcomes = new Outcomes(bootstrap, topics, schemas)
let producer = open()
await outcomes.start()

for (const order of process.argv.slice(2)) {
  // The id comes of the order, so that it is the same after a crash; never of a clock or a random number.
  const [account, kind, id, amount] = order.split(':')
  if (!isName(account, 128) || !isName(id, 64)) throw new Error(`not a name: ${account} or ${id}`)
  const command = { command_id: id, account, asset: 'credits', amount: Number(amount), source: 'shop' }
  const position = await append(RECORDS[kind], command)
  // Only now is it known whether there were credits. Nothing is delivered before.
  const found = await outcomes.wait(position, kind, command, TIMEOUT_MS)
  console.log(JSON.stringify({ account, id, ...found, position }))
}
await producer.close()
await outcomes.close()
