//! From a JSON value to a type, as serde_json does it, but that an object is an object: serde's
//! derived types take an array of their members as well, which no documentation of theirs says.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// A value that is to become a `T`.
pub(crate) struct Typed(pub(crate) Value);

impl IntoDeserializer<'_, Error> for Typed {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Typed {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Self));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(members) => object(members, visitor),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            value => Self(value).deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(Self(value)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (variant, content) = match self.0 {
            Value::String(variant) => (variant, None),
            Value::Object(members) if members.len() == 1 => {
                let mut members = members.into_iter();
                let (variant, content) = members.next().unwrap_or_default();
                (variant, Some(content))
            }
            other => return Self(other).deserialize_any(visitor),
        };
        visitor.visit_enum(Variant { variant, content })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

fn object<'de, V: Visitor<'de>>(
    members: Map<String, Value>,
    visitor: V,
) -> Result<V::Value, Error> {
    let members = members
        .into_iter()
        .map(|(name, value)| (name, Typed(value)));
    let mut members = MapDeserializer::new(members);
    let value = visitor.visit_map(&mut members)?;
    members.end()?;
    Ok(value)
}

/// A variant of an enum: its name, and what it holds.
struct Variant {
    variant: String,
    content: Option<Value>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = Error;
    type Variant = Content;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content), Error> {
        let variant = seed.deserialize(self.variant.into_deserializer())?;
        Ok((variant, Content(self.content)))
    }
}

struct Content(Option<Value>);

impl<'de> VariantAccess<'de> for Content {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(Error::custom("this variant holds nothing")),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(Typed(self.whole()?))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        Typed(self.whole()?).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Typed(self.whole()?).deserialize_struct("", fields, visitor)
    }
}

impl Content {
    fn whole(self) -> Result<Value, Error> {
        self.0
            .ok_or_else(|| Error::custom("this variant holds something"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        a: u64,
        b: Option<String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        inner: Inner,
        many: Vec<Inner>,
        by_name: BTreeMap<String, Inner>,
        pair: (u8, Inner),
        kind: Kind,
        new: New,
        #[serde(default)]
        maybe: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        Plain,
        Held(Inner),
        Both(u8, Inner),
        Named { inner: Inner },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New(Inner);

    fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
        T::deserialize(Typed(value))
    }

    fn outer(kind: &Value) -> Value {
        let inner = json!({"a": 1, "b": "x"});
        json!({
            "inner": inner, "many": [inner, {"a": 2, "b": null}, {"a": 3}], "by_name": {"n": inner},
            "pair": [7, inner], "kind": kind, "new": inner, "maybe": inner,
        })
    }

    fn kinds() -> [Value; 4] {
        let inner = json!({"a": 1, "b": "x"});
        [
            json!("plain"),
            json!({"held": inner}),
            json!({"both": [1, inner]}),
            json!({"named": {"inner": inner}}),
        ]
    }

    #[test]
    fn what_serde_json_makes_of_objects_is_made_of_them() {
        for kind in kinds() {
            let value = outer(&kind);
            let ours = typed::<Outer>(value.clone()).unwrap();
            let theirs = serde_json::from_value::<Outer>(value).unwrap();
            assert_eq!(ours, theirs);
        }
        // Every change of a type or a member is refused by both or by none.
        for value in [
            json!(null),
            json!(1),
            json!("plain"),
            json!({}),
            json!([]),
            json!(true),
        ] {
            for name in [
                "inner", "many", "by_name", "pair", "kind", "new", "maybe", "more",
            ] {
                let mut changed = outer(&json!("plain"));
                changed[name] = value.clone();
                let theirs = serde_json::from_value::<Outer>(changed.clone());
                assert_eq!(typed::<Outer>(changed).ok(), theirs.ok(), "{name}: {value}");
            }
        }
        for kind in [
            json!("other"),
            json!({"plain": 1}),
            json!("held"),
            json!({"a": 1, "b": 2}),
        ] {
            assert!(typed::<Kind>(kind).is_err());
        }
    }

    #[test]
    fn an_array_is_no_object_wherever_it_stands() {
        let listed = json!([1, "x"]);
        assert!(
            serde_json::from_value::<Inner>(listed.clone()).is_ok(),
            "the trap is there"
        );
        let error = typed::<Inner>(listed.clone()).unwrap_err().to_string();
        assert_eq!(error, "invalid type: sequence, expected struct Inner");
        for place in [
            "/inner",
            "/many/0",
            "/by_name/n",
            "/pair/1",
            "/new",
            "/maybe",
        ] {
            let mut value = outer(&json!("plain"));
            *value.pointer_mut(place).unwrap() = listed.clone();
            assert!(typed::<Outer>(value).is_err(), "{place}");
        }
        for (kind, place) in kinds()
            .into_iter()
            .zip(["", "/held", "/both/1", "/named/inner"])
            .skip(1)
        {
            let mut kind = kind;
            *kind.pointer_mut(place).unwrap() = listed.clone();
            assert!(typed::<Kind>(kind).is_err(), "{place}");
        }
        assert!(typed::<Kind>(json!({"named": [{"a": 1, "b": "x"}]})).is_err());
    }
}
