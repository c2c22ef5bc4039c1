// What any producer of commands must agree with: names, partitions, bytes. Sends nothing.
import { readFileSync } from 'node:fs'
import { compatibilityPartitioner } from '@platformatic/kafka'
import avro from 'avsc'

// A balance may be above 2^53-1: longs are read as BigInt, and written from either.
const LONG = avro.types.LongType.__with({
  fromBuffer: buffer => buffer.readBigInt64LE(),
  toBuffer: value => {
    const buffer = Buffer.alloc(8)
    buffer.writeBigInt64LE(BigInt(value))
    return buffer
  },
  fromJSON: BigInt,
  toJSON: Number,
  isValid: value => typeof value === 'bigint' || Number.isSafeInteger(value),
  compare: (one, other) => (one === other ? 0 : one < other ? -1 : 1)
})

// Schemas by id, from the schemas/lock.json of the installed package. The HTTP door has each at /schemas/{id}.
export class Schemas {
  #types = new Map()
  #ids = new Map()

  constructor (lockFile) {
    for (const { id, subject, schema } of JSON.parse(readFileSync(lockFile, 'utf8')).schemas) {
      this.#types.set(id, avro.Type.forSchema(schema, { registry: { long: LONG } }))
      this.#ids.set(subject, id)
    }
  }

  // A record as the log has it: a zero byte, the schema's id, the Avro body. Absent fields are at their defaults.
  encode (record, fields) {
    const head = Buffer.alloc(5)
    const id = this.#ids.get(record)
    head.writeUInt32BE(id, 1)
    return Buffer.concat([head, this.#types.get(id).toBuffer(fields)])
  }

  // The record's full name and its fields; null for what a newer ledger writes, which is to be skipped.
  decode (value) {
    const type = value?.[0] === 0 ? this.#types.get(value.readUInt32BE(1)) : undefined
    return type ? { record: type.name, fields: type.fromBuffer(value.subarray(5)) } : null
  }
}

// Kafka's own partitioner, as the Java client has it. The default of this library is another one (it doesn't make the
// hash positive in the same way), and so is librdkafka's: an account would be in two partitions, its order lost.
export const partitioner = compatibilityPartitioner

export function partitionOf (account, partitions) {
  return partitioner(null, Buffer.from(account)) % partitions
}

// Whether a text can name an account (128 characters) or a command (64): Unicode's characters, not UTF-16's halves.
export function isName (text, longest) {
  return text !== '' && [...text].length <= longest && !/[\p{Cc}\p{Cs}]|^\p{Z}|\p{Z}$/u.test(text)
}
