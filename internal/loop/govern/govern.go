// Package govern keeps what must not lie on the tape in the clear or at full
// size: bodies above the claim-check limit, and the ids of people.
//
// Claims keeps large bodies in the object store under their own hash. The record
// carries only the reference; whoever needs the content asks Resolve. A
// reference names no tenant: the object is looked up among those of the event's
// own tenant, so that a reference copied into another tenant's event finds
// nothing. What comes back is compared with its hash before anyone sees it.
//
// Pseudonyms turns a user id into a stable pseudonym with a key that lies in one
// file of mode 0600. Without the file nobody can link the pseudonym to the id;
// with it the same id always gives the same pseudonym within a tenant.
package govern
